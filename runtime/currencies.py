"""How many decimals a currency has (ISO 4217)."""

USUAL_DIGITS = 2
_WITHOUT = "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF"
_THREE, _FOUR = "BHD IQD JOD KWD LYD OMR TND", "CLF UYW"
UNUSUAL_DIGITS = {
    **dict.fromkeys(_WITHOUT.split(), 0),
    **dict.fromkeys(_THREE.split(), 3),
    **dict.fromkeys(_FOUR.split(), 4),
}


def currency_digits(currency: str) -> int:
    """How many decimals an amount of this currency has: what a minor unit is."""
    return UNUSUAL_DIGITS.get(currency, USUAL_DIGITS)
