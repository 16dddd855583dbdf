"""Reference values of the special functions: writes kernels/src/math/special/reference.txt.

`python3 kernels/fits/reference.py` (needs mpmath). A line is `function argument... value`; arguments are exact doubles, values
are computed with 40 digits and rounded to a double.
"""
import os
import random
from mpmath import mp, mpf
import mpmath as m

mp.dps = 40
random.seed(7)
rows = []


def add(name, f, *points):
    for p in points:
        p = p if isinstance(p, tuple) else (p,)
        v = f(*[mpf(x) for x in p])
        rows.append(" ".join([name] + [repr(float(x)) for x in p] + [repr(float(m.re(v)))]))


def spread(lo, hi, n):
    """Values of every magnitude between lo and hi."""
    return [lo * (hi / lo) ** (k / (n - 1)) * (1 + 0.01 * random.random()) for k in range(n)]


def uniform(lo, hi, n):
    return [random.uniform(lo, hi) for _ in range(n)]


positive = spread(1e-3, 60.0, 14) + [1.0, 2.0, 3.0, 6.0, 8.0, 8.5]
both = positive + [-x for x in positive[::3]]
add("lgamma", lambda x: m.log(abs(m.gamma(x))), *spread(1e-8, 1e5, 14), *uniform(-20, 0, 8), 1.0000001, 1.9999)
add("digamma", m.digamma, *spread(1e-6, 1e6, 14), *uniform(-20, 0, 8), 1.4616321449683623, 1.5)
mp.dps = 220  # zeta is accurate in absolute terms only
add("zeta", lambda s, q: m.zeta(s, q), *[(s, q) for s in (1.0001, 1.5, 2.0, 3.0, 7.3, 20.0, 60.0) for q in (0.01, 0.5, 1.0, 3.7, 12.0, 300.0)])
mp.dps = 40
add("zeta", lambda s, q: m.nsum(lambda k: (q + k) ** -int(s), [0, m.inf]), (2.0, -0.5), (3.0, -2.5), (3.0, -7.25), (4.0, -3.9))
add("polygamma", lambda n, x: m.polygamma(int(n), x), *[(n, x) for n in (0.0, 1.0, 2.0, 5.0, 20.0) for x in (0.05, 0.9, 2.5, 11.0, 80.0)])
add("i0e", lambda x: m.exp(-abs(x)) * m.besseli(0, x), *both, 700.0)
add("i1e", lambda x: m.exp(-abs(x)) * m.besseli(1, x), *both, 700.0)
add("i0", lambda x: m.besseli(0, x), *both, 700.0)
add("i1", lambda x: m.besseli(1, x), *both, 712.0)
for n in (0, 1):
    add(f"k{n}", lambda x, n=n: m.besselk(n, x), *positive, 1e-10, 600.0)
    add(f"k{n}e", lambda x, n=n: m.exp(x) * m.besselk(n, x), *positive, 1e-10, 600.0)
    add(f"j{n}", lambda x, n=n: m.besselj(n, x), *both, 1e3)
    add(f"y{n}", lambda x, n=n: m.bessely(n, x), *positive, 1e3)
add("dawsn", lambda x: m.sqrt(m.pi) / 2 * m.exp(-x * x) * m.erfi(x), *both, 1e9, 1e-20)
add("expint", m.ei, *positive, 39.9, 40.1, 700.0)
add("fresnel_sin", m.fresnels, *both, 1.4999, 2.999, 3.001, 1e-5, 350.0)
add("fresnel_cos", m.fresnelc, *both, 1.4999, 2.999, 3.001, 1e-5, 350.0)
add("spence", lambda x: m.polylog(2, 1 - x), *spread(1e-10, 1e8, 20), 0.4999, 0.5001, 0.999999, 1.000001, 2.0001)
add("erfinv", m.erfinv, *[s * x for x in (1e-20, 1e-5, 0.1, 0.3, 0.59, 0.61, 0.9, 0.999, 0.9999999999) for s in (1, -1)])
add("ndtri", lambda p: -m.sqrt(2) * (m.erfinv(1 - 2 * p) if p > 1e-12 else m.findroot(lambda y: m.log(m.erfc(y) / 2) - m.log(p), m.sqrt(-m.log(p)))),
    1e-300, 1e-100, 1e-15, 1e-5, 0.01, 0.199, 0.201, 0.4, 0.50001, 0.7, 0.81, 0.99, 0.999999)


def lower(a, x):
    return m.gammainc(a, 0, x, regularized=True)


def upper(a, x):
    return m.gammainc(a, x, m.inf, regularized=True)


shapes = [(1e-3, 0.5), (0.01, 1e-5), (0.3, 0.2), (0.3, 4.0), (0.5, 30.0), (1.0, 1.0), (2.5, 0.01), (2.5, 2.5), (3.7, 9.0), (9.9, 10.1),
          (10.1, 9.9), (10.1, 14.0), (50.0, 30.0), (50.0, 50.5), (50.0, 80.0), (300.0, 280.0), (300.0, 310.0), (2e3, 2.05e3)]
add("igamma", lower, *shapes, (2.5, 1e-100))
add("igammac", upper, *shapes, (0.2, 1e-9), (3.0, 600.0))
mp.dps = 60
add("igamma_grad_a", lambda a, x: m.diff(lambda t: lower(t, x), a), *[s for s in shapes if s[0] < 400])
mp.dps = 40
add("betainc", lambda a, b, x: m.betainc(a, b, 0, x, regularized=True), *[(a, b, x) for a in (0.05, 0.5, 1.0, 3.3, 12.0, 90.0)
    for b in (0.1, 1.0, 2.6, 40.0) for x in (0.001, 0.3, 0.77, 0.99)], (500.0, 700.0, 0.41), (500.0, 700.0, 0.45), (2000.0, 11.0, 0.99))
add("erf", m.erf, *both)
add("erfc", m.erfc, *spread(1e-3, 26.0, 14), -0.5, -3.0)
path = os.path.join(os.path.dirname(__file__), "../src/math/special/reference.txt")
with open(path, "w") as out:
    out.write("# Made by kernels/fits/reference.py with mpmath; do not edit.\n" + "\n".join(rows) + "\n")
print(len(rows), "values")
