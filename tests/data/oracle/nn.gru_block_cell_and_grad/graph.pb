
2
xPlaceholder*
dtype0*
shape
:
2
hPlaceholder*
dtype0*
shape
:
3
wrPlaceholder*
dtype0*
shape
:
3
wcPlaceholder*
dtype0*
shape
:
/
brPlaceholder*
dtype0*
shape:
/
bcPlaceholder*
dtype0*
shape:
3
dhPlaceholder*
dtype0*
shape
:
;
GRUBlockCellGRUBlockCellxhwrwcbrbc*
T0
u
GRUBlockCellGradGRUBlockCellGradxhwrwcbrbcGRUBlockCellGRUBlockCell:1GRUBlockCell:2dh*
T0"ª