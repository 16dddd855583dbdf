

yIdentityy*
T0