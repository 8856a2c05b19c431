"""The words of mathematical notation that the reader knows: the allow-list. What is not here is not read."""

from __future__ import annotations

import re


def words_of(text: str) -> frozenset[str]:
    """Return the words of a blank-separated list."""
    return frozenset(text.split())


UNICODE = str.maketrans(
    {
        "−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "﹣": "-", "－": "-", "×": r"\times ", "·": r"\cdot ",
        "⋅": r"\cdot ", "∙": r"\cdot ", "÷": r"\div ", "π": r"\pi ", "√": r"\sqrt ",
        "∛": r"\sqrt[3]", "∜": r"\sqrt[4]", "∞": r"\infty ", "≤": r"\le ",
        "≥": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "∈": r"\in ", "∪": r"\cup ", "∩": r"\cap ", "∅": r"\emptyset ",
        "°": r"^\circ ", "±": r"\pm ", "∓": r"\mp ", "½": r"\frac12 ",
        "¼": r"\frac14 ", "¾": r"\frac34 ", "α": r"\alpha ", "β": r"\beta ", "γ": r"\gamma ", "δ": r"\delta ",
        "⁄": "/", "∗": "*", "≦": r"\le ", "≧": r"\ge ", "⩽": r"\le ", "⩾": r"\ge ", "º": r"^\circ ",
        "θ": r"\theta ", "λ": r"\lambda ", "μ": r"\mu ", "ω": r"\omega ", "φ": r"\phi ", "ℝ": r"\mathbb{R}",
        "ℤ": r"\mathbb{Z}", "′": "'", "’": "'", "“": '"', "”": '"', "€": r"\text{EUR}", "£": r"\text{GBP}",
        "¥": r"\text{JPY}", "₹": r"\text{INR}", "₽": r"\text{RUB}", "₩": r"\text{KRW}", "¢": r"\text{cents}",
        "∶": ":", "।": ".", "．": ".",
        "，": ",", "。": ".", "：": ":", "；": ";", "％": "%", "、": ",", "（": "(", "）": ")", "\u00a0": " ",
        "\ufeff": "", "\u200b": "", "⟨": r"\langle ", "⟩": r"\rangle ", "⌊": r"\lfloor ", "⌋": r"\rfloor ",
        "⌈": r"\lceil ", "⌉": r"\rceil ", "∠": r"\angle ", "→": r"\to ", "∖": r"\setminus ",
    }
)  # fmt: skip

FUNCTIONS = words_of(
    "sin cos tan cot sec csc arcsin arccos arctan arccot arcsec arccsc sinh cosh tanh coth sech csch arcsinh arccosh "
    "arctanh arccoth ln log lg exp gcd lcm min max det deg dim ker arg Re Im sgn sign erf Gamma zeta sup inf floor "
    "ceil abs sqrt cis"
)
COMMAND_ONLY_FUNCTIONS = words_of("deg dim ker arg Re Im sup inf Gamma sign zeta")
"""Functions that need their backslash: as bare letters they are products or words."""
FUNCTION_SPELLINGS = {
    "arsinh": "arcsinh", "arcosh": "arccosh", "artanh": "arctanh", "asin": "arcsin", "acos": "arccos", "tg": "tan",
    "atan": "arctan", "arctg": "arctan", "ctg": "cot", "cosec": "csc", "asinh": "arcsinh", "acosh": "arccosh",
    "atanh": "arctanh", "argsinh": "arcsinh", "ceiling": "ceil", "arcoth": "arccoth",
}  # fmt: skip
GREEK = words_of(
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi rho sigma tau upsilon phi chi psi omega "
    "Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega hbar ell odot oplus nabla partial aleph"
)
SYMBOL_COMMANDS = {
    "varepsilon": "epsilon", "varphi": "phi", "vartheta": "theta", "varrho": "rho", "pi": "pi", "infty": "oo",
    "infinity": "oo", "emptyset": "EMPTY", "varnothing": "EMPTY", "imath": "i", "R": "RR", "Z": "ZZ", "N": "NN",
    "Q": "QQ", "C": "CC", "reals": "RR",
}  # fmt: skip
BLACKBOARD = {"R": "RR", "Z": "ZZ", "Q": "QQ", "N": "NN", "C": "CC"}
FONTS = words_of(
    "text textbf textit textrm textnormal textsf texttt textsc emph mbox hbox mathrm mathbf mathit mathsf mathtt "
    "mathcal mathbb mathfrak mathscr boldsymbol bm operatorname rm bf it underline textup pmb bold textmd unit"
)
SIZES = words_of("left right middle big Big bigg Bigg bigl bigr Bigl Bigr biggl biggr Biggl Biggr")
SKIPPED = words_of(
    "displaystyle textstyle scriptstyle limits nolimits quad qquad nonumber notag hfill mathstrut strut null space "
    "enspace thinspace negthinspace par noindent centering large Large small tiny , ; : ! - / @"
) | {" ", "\n"}
OPERATORS = {
    "cdot": "*", "times": "*", "ast": "*", "bullet": "*", "div": "/", "le": "<=", "leq": "<=", "leqslant": "<=",
    "ge": ">=", "geq": ">=", "geqslant": ">=", "lt": "<", "gt": ">", "ne": "!=", "neq": "!=", "cup": "cup",
    "bigcup": "cup", "cap": "cap", "bigcap": "cap", "setminus": "setminus", "in": "in", "notin": "notin",
    "approx": "~", "sim": "~", "simeq": "~", "approxeq": "~", "cong": "=", "colonequals": "=", "equiv": "equiv",
    "pm": "+-", "mp": "-+", "to": "->", "rightarrow": "->", "longrightarrow": "->", "Rightarrow": "->",
    "Longrightarrow": "->", "implies": "->", "iff": "->", "Leftrightarrow": "->", "colon": ":", "mid": "|",
    "vert": "|", "lvert": "|", "rvert": "|", "lVert": "||", "rVert": "||", "Vert": "||", "|": "||",
    "lbrace": r"\{", "rbrace": r"\}", "lbrack": "[", "rbrack": "]", "lor": "or", "vee": "or", "land": "and",
    "wedge": "and", "cdots": "...", "ldots": "...", "dots": "...", "dotsc": "...", "dotsb": "...", "prime": "'",
    "langle": "<<", "rangle": ">>", "subset": "subset", "subseteq": "subset", "propto": "propto", "mod": "mod",
    "bmod": "mod", "%": "%", "{": r"\{", "}": r"\}", "newline": r"\\", "cr": r"\\",
}  # fmt: skip
UNIT_WORDS = words_of(
    "cm mm km kg mg ml mL ft mi mph kph hr hrs sec secs min mins kW kWh MW Hz kHz MHz GHz eV keV MeV GeV Pa kPa MPa "
    "lb lbs oz yd gal rad pct percent percentage degree degrees deg inch inches foot feet yard yards mile miles meter "
    "meters metre metres gram grams second seconds minute minutes hour hours day days week weeks month months year "
    "years dollar dollars cent cents unit units sq cubic square liter liters litre litres nm um pm ms ns rpm mol kJ "
    "cal kcal"
)
"""Words read as units right after a number even outside ``\\text{}``."""
SINGLE_LETTER_UNITS = words_of("m g s N J W V A L K C F H T h")
MONEY_CODES = words_of("USD EUR GBP INR JPY CNY RMB RUB KRW CHF MXN CAD AUD")
SCALE_WORDS = {
    "thousand": "mille millier milliers tausend Tausend mila тыс tys тысяч тысячи тысяча tysiąc tysiące tysięcy "
    "bin nghìn ngàn "
    "हज़ार हजार elfu ألف آلاف duizend ribu 千 천",
    "million": "млн mln Million Millionen Mio millón millones milhão milhões milione milioni миллион миллиона "
    "миллионов milion "
    "miliony milionów milyon triệu miljoen juta مليون 百万 百萬 백만",
    "billion": "млрд mld milliard milliards Milliarde Milliarden Mrd bilhão bilhões miliardo miliardi миллиард "
    "миллиарда "
    "миллиардов miliard miliardy miliardów milyar tỷ miljard مليار 十亿 十億",
    "trillion": "Billion Billionen billón billones 兆",
    "dozen": "douzaine douzaines Dutzend docena docenas dúzia dúzias dozzina dozzine дюжина дюжин tuzin düzine",
    "lakh": "लाख",
    "crore": "करोड़ 千万 千萬 천만",
    "myriad": "万 萬 만",
    "myriad myriad": "亿 億 억",
}
"""Scale words of other languages by their English names. German's Billion has a capital; English's has not."""
SCALED = {"doubled": 2, "tripled": 3, "quadrupled": 4}
"""Words after a number that multiply it."""
CHANGING = words_of(
    "or nor than least most below under minus negative plus divided multiplied base mod modulo not never none except "
    "but until through between binary octal hexadecimal inverse reciprocal maybe perhaps possibly unless if when "
    "otherwise either neither bc bce wrong incorrect versus vs ish squared cubed halved doubled tripled quadrupled "
    "factorial above over up upwards onwards beyond mil mill repeating recurring inverted negated "
    "oder mindestens höchstens quadrat quadriert verdoppelt halbiert fakultät ou carré factorielle cuadrado cuadrada "
    "quadrado quadrato cubo factoriel fattoriale fatorial или квадрате кубе факториал lub kwadrat veya karesi"
)
"""Words after a number that make it another answer: then the whole answer is read as words."""
CHANGING_SIGNS = re.compile(
    r"以上|以下|以内|以外|未満|未满|不足|[的の](?:平方|立方|[两二兩]倍|一半|半分|倒数|逆数|阶乘|階乗)"
    r"|より[大小多少]|余り|あまり|[0-9]多|^多|보다|이상|이하|미만|초과|의 ?(?:제곱|절반|두 ?배)"
)
"""The same in scripts without blanks between words."""
