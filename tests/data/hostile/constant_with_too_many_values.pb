
1
yConst*
dtype0	*
valueB	R