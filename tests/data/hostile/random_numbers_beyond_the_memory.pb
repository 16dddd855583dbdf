
:
dimsConst*
dtype0	*
valueB	R	€€€€€ €€@
.
yRandomUniformdims*
T0	*
dtype0