//! Integer arithmetic as TensorFlow defines it: wrapping, with divisions that floor or truncate.
//!
//! Divisors must not be zero; the kernel that loops checks that first and reports it. The one quotient that does not fit, the
//! least value by -1, wraps.
#![forbid(unsafe_code)]

/// An integer type of tensors.
pub trait Int: Copy + Ord + Default + 'static {
    /// `x + y`, wrapping.
    fn add(self, y: Self) -> Self;
    /// `x - y`, wrapping.
    fn sub(self, y: Self) -> Self;
    /// `x * y`, wrapping.
    fn mul(self, y: Self) -> Self;
    /// `-x`, wrapping.
    fn neg(self) -> Self;
    /// `|x|`, wrapping.
    fn abs(self) -> Self;
    /// -1, 0 or 1.
    fn sign(self) -> Self;
    /// The quotient rounded towards zero. Panics if `y` is 0.
    fn truncate_div(self, y: Self) -> Self;
    /// The remainder with the sign of `x`. Panics if `y` is 0.
    fn truncate_mod(self, y: Self) -> Self;
    /// The quotient rounded down. Panics if `y` is 0.
    fn floor_div(self, y: Self) -> Self;
    /// The remainder with the sign of `y`. Panics if `y` is 0.
    fn floor_mod(self, y: Self) -> Self;
    /// `x / y` rounded towards zero, 0 where `y` is 0.
    fn div_no_nan(self, y: Self) -> Self;
    /// `(x - y)^2`, wrapping.
    fn squared_difference(self, y: Self) -> Self;
    /// `x^y`, wrapping; `None` where `y` is negative.
    fn pow(self, y: Self) -> Option<Self>;
}

macro_rules! shared {
    ($t:ident) => {
        #[inline(always)]
        fn add(self, y: Self) -> Self {
            self.wrapping_add(y)
        }
        #[inline(always)]
        fn sub(self, y: Self) -> Self {
            self.wrapping_sub(y)
        }
        #[inline(always)]
        fn mul(self, y: Self) -> Self {
            self.wrapping_mul(y)
        }
        #[inline(always)]
        fn neg(self) -> Self {
            self.wrapping_neg()
        }
        #[inline(always)]
        fn truncate_div(self, y: Self) -> Self {
            self.wrapping_div(y)
        }
        #[inline(always)]
        fn truncate_mod(self, y: Self) -> Self {
            self.wrapping_rem(y)
        }
        #[inline(always)]
        fn div_no_nan(self, y: Self) -> Self {
            if y == 0 { 0 } else { self.wrapping_div(y) }
        }
        #[inline(always)]
        fn squared_difference(self, y: Self) -> Self {
            let d = self.wrapping_sub(y);
            d.wrapping_mul(d)
        }
    };
}

/// `base^exponent`, wrapping, by squaring.
macro_rules! power {
    ($base:expr, $exponent:expr) => {{
        let (mut base, mut left, mut product) = ($base, $exponent, 1);
        while left > 0 {
            if left & 1 == 1 {
                product = base.wrapping_mul(product);
            }
            base = base.wrapping_mul(base);
            left >>= 1;
        }
        product
    }};
}

macro_rules! signed {
    ($($t:ident),*) => {
        $(impl Int for $t {
            shared!($t);
            #[inline(always)]
            fn abs(self) -> Self {
                self.wrapping_abs()
            }
            #[inline(always)]
            fn sign(self) -> Self {
                self.signum()
            }
            #[inline(always)]
            fn floor_div(self, y: Self) -> Self {
                let (q, r) = (self.wrapping_div(y), self.wrapping_rem(y));
                if r != 0 && (r < 0) != (y < 0) { q - 1 } else { q }
            }
            #[inline(always)]
            fn floor_mod(self, y: Self) -> Self {
                let r = self.wrapping_rem(y);
                if r != 0 && (r < 0) != (y < 0) { r + y } else { r }
            }
            #[inline]
            fn pow(self, y: Self) -> Option<Self> {
                (y >= 0).then(|| power!(self, y))
            }
        })*
    };
}

macro_rules! unsigned {
    ($($t:ident),*) => {
        $(impl Int for $t {
            shared!($t);
            #[inline(always)]
            fn abs(self) -> Self {
                self
            }
            #[inline(always)]
            fn sign(self) -> Self {
                (self > 0) as $t
            }
            #[inline(always)]
            fn floor_div(self, y: Self) -> Self {
                self / y
            }
            #[inline(always)]
            fn floor_mod(self, y: Self) -> Self {
                self % y
            }
            #[inline]
            fn pow(self, y: Self) -> Option<Self> {
                Some(power!(self, y))
            }
        })*
    };
}

signed!(i8, i16, i32, i64);
unsigned!(u8, u16, u32, u64);

#[cfg(test)]
mod tests {
    use super::Int;

    #[test]
    fn divisions_round_as_tensorflow_does() {
        let (x, y) = ([7, -7, 7, -7, i32::MIN, i32::MIN], [3, 3, -3, -3, -1, 3]);
        let all = |f: fn(i32, i32) -> i32| x.iter().zip(y).map(|(x, y)| f(*x, y)).collect::<Vec<_>>();
        assert_eq!(all(Int::floor_div), [2, -3, -3, 2, i32::MIN, -715_827_883]);
        assert_eq!(all(Int::floor_mod), [1, 2, -2, -1, 0, 1]);
        assert_eq!(all(Int::truncate_div), [2, -2, -2, 2, i32::MIN, -715_827_882]);
        assert_eq!(all(Int::truncate_mod), [1, -1, 1, -1, 0, -2]);
        assert_eq!(all(Int::squared_difference), [16, 100, 100, 16, 1, 9]);
        assert_eq!(Int::floor_div(200_u8, 7), 28);
    }

    #[test]
    fn powers_wrap_and_refuse_negative_exponents() {
        assert_eq!(Int::pow(7_i8, 3), Some(87));
        assert_eq!(Int::pow(-2_i64, 63), Some(i64::MIN));
        assert_eq!(Int::pow(0_u8, 0), Some(1));
        assert_eq!(Int::pow(2_i32, -1), None);
        assert_eq!(
            (Int::abs(i8::MIN), Int::neg(i8::MIN), Int::sign(-9_i64)),
            (i8::MIN, i8::MIN, -1)
        );
        assert_eq!(Int::div_no_nan(5_i32, 0), 0);
    }
}
