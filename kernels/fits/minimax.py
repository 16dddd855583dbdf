"""Minimax polynomials of the f32 functions in kernels/src/math/single, by Remez exchange.

`python3 kernels/fits/minimax.py` (needs mpmath) prints the coefficients, lowest power first, with the greatest weighted error.
The weights make that error relative to the result of the function that uses the polynomial.
"""
import struct
from mpmath import mp, mpf, matrix, lu_solve, exp, log, sin, cos, atan, asin, sinh, erf, erfc, sqrt, pi

mp.dps = 50


def remez(f, w, a, b, n, rounds=12, grid=1500):
    """The polynomial p of degree n with the least max |w (p - f)| on [a, b], and that maximum."""
    a, b = mpf(a), mpf(b)
    xs = [(a + b) / 2 + (b - a) / 2 * cos(pi * (n + 1 - i) / (n + 1)) for i in range(n + 2)]
    gx = [(a + b) / 2 + (b - a) / 2 * cos(pi * (grid - i) / grid) for i in range(grid + 1)]
    gf, gw = [f(x) for x in gx], [w(x) for x in gx]
    for _ in range(rounds):
        rows, right = matrix(n + 2, n + 2), matrix(n + 2, 1)
        for i, x in enumerate(xs):
            for j in range(n + 1):
                rows[i, j] = x**j
            rows[i, n + 1] = (-1) ** i / w(x)
            right[i] = f(x)
        solution = lu_solve(rows, right)
        c = [solution[j] for j in range(n + 1)]
        err = []
        for x, y, weight in zip(gx, gf, gw):
            p = mpf(0)
            for k in reversed(c):
                p = p * x + k
            err.append(weight * (p - y))
        peaks = []
        for i, e in enumerate(err):
            if peaks and (err[peaks[-1]] > 0) == (e > 0):
                if abs(e) > abs(err[peaks[-1]]):
                    peaks[-1] = i
            else:
                peaks.append(i)
        while len(peaks) > n + 2:
            peaks.pop(0 if abs(err[peaks[0]]) < abs(err[peaks[-1]]) else -1)
        if len(peaks) < n + 2 or [gx[i] for i in peaks] == xs:
            break
        xs = [gx[i] for i in peaks]
    return c, max(abs(e) for e in err)


def fit(name, f, w, a, b, n, double=False):
    c, err = remez(f, w, a, b, n)
    as_f32 = lambda v: struct.unpack("f", struct.pack("f", float(v)))[0]
    print(f"{name}: 2^{float(log(err) / log(2)):.1f}")
    print("  " + ", ".join(repr(float(v)) if double else "%.9g" % as_f32(v) for v in c))


def near(f, series, eps=mpf("1e-8")):
    """f, or its first terms where its formula would cancel."""
    return lambda x: series(x) if abs(x) < eps else f(x)


def of_square(f):
    return lambda z: f(sqrt(z))


if __name__ == "__main__":
    one, tiny, ln2 = mpf(1), mpf("1e-12"), log(mpf(2))
    h = ln2 / 2 * mpf("1.01")
    fit("exp: (e^r - 1 - r) / r^2", near(lambda r: (exp(r) - 1 - r) / r**2, lambda r: one / 2 + r / 6), lambda r: abs(r) + mpf("1e-9"), -h, h, 4)
    fit("exp2: (2^r - 1) / r", near(lambda r: (exp(r * ln2) - 1) / r, lambda r: ln2 + r * ln2**2 / 2), lambda r: abs(r) + mpf("1e-3"), -0.505, 0.505, 5)
    fit("log: (log(1 + f) - f + f^2/2) / f^3", near(lambda x: (log(1 + x) - x + x * x / 2) / x**3, lambda x: one / 3 - x / 4, mpf("1e-9")),
        lambda x: x * x + mpf("1e-9"), sqrt(mpf("0.5")) - 1, sqrt(mpf(2)) - 1, 7)
    q = (pi / 4 * mpf("1.001")) ** 2
    fit("sin, f64: (sin r - r) / r^3 in r^2", near(of_square(lambda r: (sin(r) - r) / r**3), lambda z: -one / 6 + z / 120), lambda z: z, tiny, q, 3, True)
    fit("cos, f64: (cos r - 1 + r^2/2) / r^4 in r^2", near(of_square(lambda r: (cos(r) - 1 + r**2 / 2) / r**4), lambda z: one / 24 - z / 720),
        lambda z: z * z, tiny, q, 3, True)
    fit("erf: erf(x) / x - 1 in x^2", near(of_square(lambda x: erf(x) / x - 1), lambda z: 2 / sqrt(pi) * (1 - z / 3) - 1),
        of_square(lambda x: x / erf(x)), tiny, mpf("0.94") ** 2, 6)
    fit("erf: log erfc(x)", lambda x: log(erfc(x)), erfc, "0.92", 4, 6)
    fit("atan: (atan a - a) / a^3 in a^2", near(of_square(lambda a: (atan(a) - a) / a**3), lambda z: -one / 3 + z / 5), lambda z: z, tiny, 1, 7)
    fit("asin: (asin a - a) / a^3 in a^2", near(of_square(lambda a: (asin(a) - a) / a**3), lambda z: one / 6 + z * 3 / 40), lambda z: z, tiny, "0.2501", 4)
    fit("sinh: (sinh x - x) / x^3 in x^2", near(of_square(lambda x: (sinh(x) - x) / x**3), lambda z: one / 6 + z / 120), lambda z: z, tiny, 1, 3)
    scaled = lambda t: (lambda x: exp(x * x) * erfc(x) * (1 + 2 * x))(3 * (1 + t) / (1 - t))
    fit("erfc: e^(a^2) erfc(a) (1 + 2a) in (a - 3) / (a + 3)", scaled, lambda t: 1 / scaled(t), -1, (mpf("10.1") - 3) / (mpf("10.1") + 3), 10)
    s = (sqrt(mpf(2)) - 1) / (sqrt(mpf(2)) + 1)
    fit("pow, f64: log2((1 + s) / (1 - s)) / s in s^2", near(of_square(lambda s: log((1 + s) / (1 - s)) / ln2 / s), lambda z: 2 / ln2 * (1 + z / 3)),
        lambda z: one, tiny, s * s, 5, True)
    fit("pow, f64: 2^r", lambda r: exp(r * ln2), lambda r: exp(-r * ln2), -0.5, 0.5, 7, True)
