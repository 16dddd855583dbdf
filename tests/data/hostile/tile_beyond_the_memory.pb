
1
xConst*
dtype0	*
valueB	R
7
nConst*
dtype0	*
valueB	R	€€€€€€€€ 
*
yTilexn*
T0	*

Tmultiples0	