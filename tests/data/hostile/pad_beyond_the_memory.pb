
1
xConst*
dtype0	*
valueB	R
D
nConst*
dtype0	*+
value"B 	Rÿÿÿÿÿÿÿÿÿÿÿÿÿÿÿÿ
(
yPadxn*
T0	*
	Tpaddings0	