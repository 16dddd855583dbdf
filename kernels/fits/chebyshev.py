"""Chebyshev series of the special functions in kernels/src/math/special, printed as Rust constants.

`python3 kernels/fits/chebyshev.py` (needs mpmath). Each row is sum' c[k] T_k(t) with c[0] halved already, where t is the
argument mapped from [a, b] to [-1, 1]; terms below 2e-17 of the largest are left out.
"""
from mpmath import mp, mpf, besseli, besselk, besselj, erfi, exp, sqrt, log, pi, cos, sin, fresnels, fresnelc

mp.dps = 45


def series(f, a, b, n=80):
    a, b = mpf(a), mpf(b)
    theta = [pi * (k + mpf(1) / 2) / n for k in range(n)]
    y = [f((a + b) / 2 + (b - a) / 2 * cos(t)) for t in theta]
    c = [2 * sum(v * cos(j * t) for v, t in zip(y, theta)) / n for j in range(n)]
    c[0] /= 2
    top = max(abs(v) for v in c)
    while abs(c[-1]) < mpf("2e-17") * top:
        c.pop()
    return c


def show(name, doc, f, a, b, n=80):
    c = series(f, a, b, n)
    print(f"/// {doc}")
    print(f"const {name}: [f64; {len(c)}] = [")
    for v in c:
        print(f"    {float(v)!r},")
    print("];")


def tail(f):
    """f(1/x) with the limit at 0 taken just beside it."""
    return lambda u: f(1 / max(u, mpf("1e-12")))


def aux(x):
    """The auxiliary functions f and g of the Fresnel integrals (DLMF 7.2.10, 7.2.11)."""
    mp.dps = 80
    s, c, p = mpf(1) / 2 - fresnels(x), mpf(1) / 2 - fresnelc(x), pi * x * x / 2
    f, g = s * cos(p) - c * sin(p), c * cos(p) + s * sin(p)
    mp.dps = 45
    return f, g


def dawson(x):
    return sqrt(pi) / 2 * exp(-x * x) * erfi(x)


EPS = mpf("1e-30")
if __name__ == "__main__":
    show("I0_NEAR", "e^-x I0(x) for x in [0, 8].", lambda x: exp(-x) * besseli(0, x), 0, 8)
    show("I0_FAR", "sqrt(x) e^-x I0(x) in 1/x for x >= 8.", tail(lambda x: sqrt(x) * exp(-x) * besseli(0, x)), 0, mpf(1) / 8)
    show("I1_NEAR", "e^-x I1(x) / x for x in [0, 8].", lambda x: exp(-x) * besseli(1, x) / x, 0, 8)
    show("I1_FAR", "sqrt(x) e^-x I1(x) in 1/x for x >= 8.", tail(lambda x: sqrt(x) * exp(-x) * besseli(1, x)), 0, mpf(1) / 8)
    show("K0_NEAR", "K0(x) + ln(x / 2) I0(x) in x^2 for x in (0, 2].",
         lambda z: besselk(0, sqrt(z)) + log(sqrt(z) / 2) * besseli(0, sqrt(z)), EPS, 4)
    show("K0_FAR", "sqrt(x) e^x K0(x) in 1/x for x >= 2.", tail(lambda x: sqrt(x) * exp(x) * besselk(0, x)), 0, mpf(1) / 2)
    show("K1_NEAR", "x (K1(x) - ln(x / 2) I1(x)) in x^2 for x in (0, 2].",
         lambda z: sqrt(z) * (besselk(1, sqrt(z)) - log(sqrt(z) / 2) * besseli(1, sqrt(z))), EPS, 4)
    show("K1_FAR", "sqrt(x) e^x K1(x) in 1/x for x >= 2.", tail(lambda x: sqrt(x) * exp(x) * besselk(1, x)), 0, mpf(1) / 2)
    show("DAWSON_NEAR", "D(x) / x in x^2 for x in [0, 2].", lambda z: dawson(sqrt(z)) / sqrt(z), EPS, 4)
    show("DAWSON_MIDDLE", "x D(x) for x in [2, 6].", lambda x: x * dawson(x), 2, 6)
    show("DAWSON_FAR", "x D(x) in 1/x^2 for x >= 6.", lambda z: (lambda x: x * dawson(x))(1 / sqrt(max(z, mpf("1e-6")))) if z > mpf("1e-6") else (1 + z / 2 + 3 * z * z / 4 + 15 * z**3 / 8 + 105 * z**4 / 16 + 945 * z**5 / 32) / 2, 0, mpf(1) / 36)
    show("F_MIDDLE", "pi x f(x) for x in [1.5, 3].", lambda x: pi * x * aux(x)[0], mpf(3) / 2, 3)
    show("G_MIDDLE", "pi^2 x^3 g(x) for x in [1.5, 3].", lambda x: pi**2 * x**3 * aux(x)[1], mpf(3) / 2, 3)
    def far(i):
        def h(w):
            if w < mpf("1e-9"):
                s = w / pi**2
                return 1 - 3 * s + 105 * s * s if i == 0 else 1 - 15 * s + 945 * s * s
            x = w ** (-mpf(1) / 4)
            return pi * x * aux(x)[0] if i == 0 else pi**2 * x**3 * aux(x)[1]
        return h
    show("F_FAR", "pi x f(x) in 1/x^4 for x >= 3.", far(0), 0, mpf(1) / 81)
    show("G_FAR", "pi^2 x^3 g(x) in 1/x^4 for x >= 3.", far(1), 0, mpf(1) / 81)
