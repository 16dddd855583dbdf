//! Numbers as C's `printf` writes them, and as TensorFlow prints them.

/// The letter of the conversion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// `%f`: digits after the point.
    Fixed,
    /// `%e`: one digit before the point and an exponent.
    Exponent,
    /// `%g`: the shorter of both, without trailing zeros.
    General,
}

/// How a field is filled up to its width.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fill {
    /// Spaces before it.
    Spaces,
    /// A space or a minus before the digits, and spaces before it.
    SpaceSign,
    /// Zeros after the sign.
    Zeros,
    /// Spaces after it.
    Left,
    /// A sign always, and spaces before it.
    PlusSign,
}

/// A conversion specification.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spec {
    pub(crate) width: usize,
    pub(crate) fill: Fill,
    pub(crate) precision: Option<usize>,
    pub(crate) style: Style,
}

impl Spec {
    /// `%g` with that many significant digits.
    pub(crate) const fn general(precision: usize) -> Spec {
        Spec {
            width: 0,
            fill: Fill::Spaces,
            precision: Some(precision),
            style: Style::General,
        }
    }

    /// A floating-point number.
    pub(crate) fn float(&self, x: f64) -> String {
        let digits = if x.is_nan() {
            "nan".to_owned()
        } else if x.is_infinite() {
            "inf".to_owned()
        } else {
            let p = self.precision.unwrap_or(6);
            match self.style {
                Style::Fixed => format!("{:.p$}", x.abs()),
                Style::Exponent => exponent(x.abs(), p),
                Style::General => general(x.abs(), p),
            }
        };
        self.filled(x.is_sign_negative() && !x.is_nan(), digits, x.is_finite())
    }

    /// An integer.
    pub(crate) fn integer(&self, x: i128) -> String {
        self.filled(x < 0, x.unsigned_abs().to_string(), true)
    }

    /// Text: at most `precision` bytes of it.
    pub(crate) fn text(&self, s: &[u8]) -> Vec<u8> {
        let s = &s[..self.precision.unwrap_or(s.len()).min(s.len())];
        let pad = self.width.saturating_sub(s.len());
        let mut out = Vec::with_capacity(s.len() + pad);
        if self.fill != Fill::Left {
            out.resize(pad, b' ');
        }
        out.extend_from_slice(s);
        out.resize(s.len() + pad, b' ');
        out
    }

    fn filled(&self, negative: bool, digits: String, finite: bool) -> String {
        let sign = match (negative, self.fill) {
            (true, _) => "-",
            (false, Fill::PlusSign) => "+",
            (false, Fill::SpaceSign) => " ",
            _ => "",
        };
        let pad = self.width.saturating_sub(sign.len() + digits.len());
        match self.fill {
            Fill::Left => format!("{sign}{digits}{:pad$}", ""),
            Fill::Zeros if finite => format!("{sign}{:0<pad$}{digits}", ""),
            _ => format!("{:pad$}{sign}{digits}", ""),
        }
    }
}

/// `%.{p}e` of a number that is not negative.
fn exponent(x: f64, p: usize) -> String {
    let s = format!("{x:.p$e}");
    let (digits, e) = s.split_once('e').unwrap_or((&s, "0"));
    let e: i32 = e.parse().unwrap_or(0);
    format!("{digits}e{}{:02}", if e < 0 { '-' } else { '+' }, e.abs())
}

/// `%.{p}g` of a number that is not negative.
fn general(x: f64, p: usize) -> String {
    let p = p.max(1);
    let s = format!("{x:.*e}", p - 1);
    let e: i32 = s.split_once('e').and_then(|(_, e)| e.parse().ok()).unwrap_or(0);
    let bare = |s: String| match s.contains('.') {
        true => s.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => s,
    };
    if e < -4 || e >= p as i32 {
        let s = exponent(x, p - 1);
        let (digits, e) = s.split_once('e').unwrap_or((&s, "+00"));
        format!("{}e{e}", bare(digits.to_owned()))
    } else {
        bare(format!("{x:.*}", (p as i32 - 1 - e).max(0) as usize))
    }
}

/// A float32 as TensorFlow prints it: six digits if they are exact, else nine.
pub(crate) fn print_f32(x: f32) -> String {
    let short = Spec::general(6).float(f64::from(x));
    match short.parse::<f32>() {
        Ok(y) if y == x || x.is_nan() => short,
        _ => Spec::general(9).float(f64::from(x)),
    }
}

/// A float64 as TensorFlow prints it: fifteen digits if they are exact, else seventeen.
pub(crate) fn print_f64(x: f64) -> String {
    let short = Spec::general(15).float(x);
    match short.parse::<f64>() {
        Ok(y) if y == x || x.is_nan() => short,
        _ => Spec::general(17).float(x),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_as_printf_writes_them() {
        let spec = |style, precision, width, fill| Spec {
            width,
            fill,
            precision,
            style,
        };
        let g = |x: f64| Spec::general(6).float(x);
        assert_eq!(
            [g(0.1), g(1e10), g(100000.0), g(1e6), g(0.0001), g(0.00001), g(0.0)],
            ["0.1", "1e+10", "100000", "1e+06", "0.0001", "1e-05", "0"]
        );
        assert_eq!(spec(Style::Fixed, None, 12, Fill::Zeros).float(-2.5), "-0002.500000");
        assert_eq!(spec(Style::Fixed, None, 12, Fill::Left).float(-2.5), "-2.500000   ");
        assert_eq!(
            spec(Style::Exponent, Some(3), 14, Fill::PlusSign).float(1.0 / 3.0),
            "    +3.333e-01"
        );
        assert_eq!(
            spec(Style::Exponent, Some(3), 14, Fill::PlusSign).float(f64::NAN),
            "          +nan"
        );
        assert_eq!(
            spec(Style::Fixed, None, 12, Fill::Zeros).float(f64::INFINITY),
            "         inf"
        );
        assert_eq!(spec(Style::Fixed, None, 12, Fill::Zeros).integer(-3), "-00000000003");
        assert_eq!(spec(Style::Fixed, Some(1), 4, Fill::Spaces).text(b"bc"), b"   b");
    }

    #[test]
    fn numbers_as_tensorflow_prints_them() {
        assert_eq!(
            [
                print_f32(0.1),
                print_f32(1.0 / 3.0),
                print_f32(123456.7),
                print_f32(-0.0)
            ],
            ["0.1", "0.333333343", "123456.703", "-0"]
        );
        assert_eq!(
            [print_f64(1.0 / 3.0), print_f64(1e22), print_f64(f64::NEG_INFINITY)],
            ["0.33333333333333331", "1e+22", "-inf"]
        );
    }
}
