

aIdentityy*
T0

yIdentitya*
T0