
E
xPlaceholder*
dtype0*&
shape:€€€€€ €€€€€ €€€€€ 

yShapex*
T0