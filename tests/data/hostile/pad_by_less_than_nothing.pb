
1
xConst*
dtype0	*
valueB	R
F
nConst*
dtype0	*-
value$B"	Rþÿÿÿÿÿÿÿÿþÿÿÿÿÿÿÿÿ
(
yPadxn*
T0	*
	Tpaddings0	