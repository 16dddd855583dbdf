
;
tPlaceholder*
shape:ÿÿÿÿÿÿÿÿÿ*
dtype0	
–
LogUniformCandidateSamplerLogUniformCandidateSamplert*
num_true*
seed2*
unique(*
	range_max2*

seed*
num_sampled	"ª