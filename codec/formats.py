"""Value formats: ways to write a run of float32 numbers.

    name      bytes of K numbers   what a number becomes
    float32   4 K                  itself
    bf16      2 K                  the nearest with 8 significant bits
    fp16      2 K                  the nearest IEEE binary16
    natural   ceil(9 K / 8)        one of the two powers of two around it, by chance

They are the whole of some compressors (``codec/dense.py``) and the values inside sparse
payloads. The kernels are ``codec/format_kernels.py``; every bit is in ``docs/payloads.md``.

Source of ``natural``: Horvath and others 2019, "Natural compression for distributed deep
learning", arXiv:1905.10988: unbiased, with a variance of 1/8. Differs: a magnitude of 2^127
or more becomes 2^127, since the next power of two is no float32, and a denormal number
becomes 0 or 2^-126, without bias but with a variance that is bounded by 2^-252 alone.
"""

from __future__ import annotations

from dataclasses import dataclass

from psrv.codec.format_kernels import BF16, FLOAT32, FP16, NATURAL


@dataclass(frozen=True, slots=True)
class Format:
    """One way to write numbers.

    Attributes:
        name: as in a spec, ``top-k:0.01/bf16``.
        code: what the kernels know it by.
        bits: of one number.
        omega: the variance that it adds: E (Q(v) - v)^2 <= omega v^2 with E Q(v) = v. 0 for
            a format that rounds to nearest, which has no variance but, in general, a bias.
        random: Q draws from the stream of ``Purpose.ROUNDING``.
    """

    name: str
    code: int
    bits: int
    omega: float = 0.0
    random: bool = False

    def size(self, count: int) -> int:
        """Bytes of a run of ``count`` numbers."""
        return (self.bits * count + 7) // 8


FORMATS: dict[str, Format] = {
    form.name: form
    for form in (
        Format("float32", FLOAT32, 32),
        Format("bf16", BF16, 16),
        Format("fp16", FP16, 16),
        Format("natural", NATURAL, 9, omega=1 / 8, random=True),
    )
}
