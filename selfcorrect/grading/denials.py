"""Does a sentence state the value that stands in it? Not where it denies, doubts, asks or supposes it.

`states_not` walks back from the value over words that carry no meaning of their own (articles, verbs of saying, the
word "answer") to the first that does: a negation, a doubt, a comparison or a condition takes it back. What comes
after it may deny it too: "is wrong", ``ではない``, a question mark. Languages: those whose cues `extraction` reads.
"""

from __future__ import annotations

import re

from selfcorrect.grading.maths.vocabulary import words_of

NEGATIONS = words_of(
    "not cannot never no nor neither nowhere isnt cant hardly scarcely anything without nobody "
    "nicht kein keine keinen keinem keiner nie niemals weder keinesfalls keineswegs "
    "ne pas jamais non aucun aucune nullement no nunca jamás tampoco ningún ninguna não nem mai né nessuna nessun "
    "не нет никогда нельзя nie nigdy ani żadna değil asla hayır niet geen nooit noch không chẳng bukan tidak "
    "नहीं मत না নয় நிச்சயமல்ல కాదు ليس ليست لا لن لم "
    "inte ikke ej icke ei eivät δεν όχι není nu nincs nije לא אינו אינה אין نیست نہیں ні немає இல்லை hindi si sio"
)
DOUBTS = words_of(
    "doubt doubts doubtful doubted unlikely unsure uncertain unclear unknown improbable impossible may might maybe "
    "perhaps possibly wrong incorrect false erroneous mistaken bogus tempting naive deny denies disagree refuse "
    "refuses "
    "mistake some "
    "bezweifle zweifle zweifel unwahrscheinlich vielleicht unmöglich falsch falsche falsches "
    "doute doutons improbable peut-être impossible fausse faux mauvaise incorrecte "
    "dudo duda dudamos quizás quizá vez acaso imposible incorrecta errónea falsa improvável duvido talvez impossível "
    "errada incorreta dubito forse impossibile sbagliata errata "
    "сомневаюсь сомнительно вряд маловероятно возможно невозможно неверный неправильный неверно "
    "wątpię może niemożliwe błędna zła şüpheliyim belki yanlış imkansız misschien onmogelijk "
    "शायद সম্ভবত ربما"
)
COMPARISONS = words_of(
    "greater larger bigger higher longer lower smaller shorter less more fewer above below under over exceeds exceed "
    "beyond nearly almost near close least most up out within between twice double triple thrice half quarter "
    "times far root square "
    "cube factorial logarithm reciprocal opposite "
    "different differs differ other except besides "
    "mehr weniger größer kleiner höchstens mindestens fast doppelt halb doppelte hälfte über unter anders "
    "plus moins presque double moitié supérieure inférieure más menos casi mayor menor doble mitad mais quase maior "
    "dobro metade più meno quasi maggiore minore doppio metà больше меньше более менее почти вдвое половина "
    "więcej mniej prawie większa mniejsza fazla az meer minder bijna"
)
CONDITIONS = words_of(
    "if whether unless suppose supposing supposed assume assuming assumed imagine pretend hypothetically "
    "wenn falls ob angenommen sofern si supposons supposez se supponiamo suponha suponhamos supongamos "
    "если ли допустим предположим jeśli jeżeli czy gdyby eğer indien nếu jika अगर यदि যদি إذا لو"
)
_CUES = words_of(
    "answer answers solution result value number réponse reponse résultat solution valeur nombre respuesta resultado "
    "valor número resposta risposta risultato soluzione valore numero antwort lösung ergebnis wert zahl ответ решение "
    "результат значение число odpowiedź wynik liczba wartość cevap sonuç antwoord jawaban jibu"
)
_LIGHT = _CUES | words_of(
    "the a an my our your its this that it we i you he she they one final correct right true exact exactly actual real "
    "is be was are were been being can could would should will do does did have has had going to of for by as at all "
    "any means from way even quite equal equals think thinks believe believes say says said claim conclude know "
    "mean means agree accept see find sure certain clear likely case such than get give given there here therefore "
    "thus "
    "n't don doesn isn wasn wouldn couldn won aren didn shouldn haven t s re ve m it's that's i'm there's "
    "die der das den dem des eine ein meine unsere ich wir glaube denke meine sage dass daß es ist sei sein kann "
    "könnte wird würde wäre richtige endgültige finale gleich also "
    "la le l les un une ma mon notre que qu il elle ce c je j nous pense crois dis est soit était bonne finale "
    "correcte sûr d de du égale égal donc à "
    "el los las una uno creo pienso digo es sea era mi nuestra correcta igual a o os as um uma acho creio penso é "
    "seja minha nossa correta ser lo gli che il io credo dico sia è era mia nostra corretta di uguale del della da "
    "что это этот мой наш я мы думаю считаю правильный верный окончательный быть будет равен равно есть "
    "że to moja nasza jest ja sądzę myślę uważam prawidłowa poprawna ostateczna doğru son nihai bu het de is mijn "
    "este ole är er είναι είν je là phải adalah on ni jibu svaret vastaus απάντηση odpověď răspunsul válasz "
    "відповідь đáp án "
    "x y n"
)
_NEARBY = words_of("the a an of than as to from de que di des del do als чем od dan da")
"""What may stand between a comparison and its value: "greater than the"."""
_SURE = words_of(
    "no without beyond any little sin sans sem senza ohne kein keine без нет bez nessun nessuna ningún hiç"
)
_THAT = words_of("that dass daß que qu что che że dat")
_WORD = re.compile(r"[^\W\d_]+(?:[-’'][^\W\d_]+)*|≠|!=|\\neq?\b|[^\s\w]|\w")
_BROKEN = re.compile(r"(?:[.!?](?=\s)|[。！？।\n;；])")
_WINDOW = 160
_STEPS = 14
_SPACELESS = re.compile(
    r"(?:不|没|沒|非|未必|绝非|否|怀疑|懷疑|难道|是否|如果|假如|假设|假設|若|也许|也許|或许|可能|大于|小于|超过|不到|低于|高于|接近|至少|至多"
    r"|最多|最少|两倍|一半|もし|疑|ไม่|อาจ)[^，,。、；;：:\d]{0,10}[：:\s=＝$*（(\\\[]*$"
)
_SPACELESS_SIGN = re.compile(r"[一-鿿ぁ-んァ-ン฀-๿]")
_AFTER = re.compile(
    r"[\s$*)\]\\}'\"”]*(?:"
    r"(?:,?\s*(?:which|and that|but (?:that|this|it))\s+|\(\s*)?"
    r"(?:(?:is|was|seems|looks|would be|must be|ist|est|es|é|è)\s+)?"
    r"(?:\w+ly\s+|clearly\s+|not\s+)?(?:wrong|incorrect|false|mistaken|impossible|falsch|faux|fausse|incorrecta?"
    r"|incorreta|errad[ao]|sbagliat[ao]|неверно|неправильно|błędna|yanlış)\b"
    r"|(?:is|was|seems|looks)\s+(?:\w+ly\s+)?(?:not|never)\b"
    r"|(?:isn't|isn’t|wasn't|cannot be|can't be|can’t be|won't be)\b"
    r"|,?\s*I doubt\b|,?\s*(?:maybe|perhaps)\b"
    r"|\w{0,2}\s*(?:değil|नहीं|নয়|না\b|కాదు|அல்ல|niet\b)"
    r"|[^\s，,。、\d]{0,4}?(?:ではな|ではあ?りません|じゃな|かもしれ|[이가]?\s?아[니닙]|是错|是錯|不对|不對|不正确|错误|錯誤))",
    re.IGNORECASE,
)
_ASKS = re.compile(r"[^\n.。!！;；]{0,60}?(?:[?？؟]|でしょうか|ですか|吗|嗎)")
_RIGHT_AFTER = re.compile(
    r"[\s$*)\]\\}]*(?:is|was|seems|looks)\s+(?:\w+ly\s+)?not\s+(?:wrong|incorrect|in doubt|only)\b", re.I
)


_DENYING = NEGATIONS | DOUBTS
_DENYING_OR_ASKING = _DENYING | CONDITIONS


def states_not(before: str, *, conditions: bool = True) -> bool:
    """True where the words before a value, back to the start of its sentence, take it back."""
    broken = None
    text = before[-_WINDOW:]
    for broken in _BROKEN.finditer(text):  # noqa: B007 (the last one is wanted)
        pass
    sentence = text[broken.end() :] if broken else text
    if not sentence.isascii() and _SPACELESS_SIGN.search(sentence) and _SPACELESS.search(sentence):
        return True
    words = [word.lower().replace("’", "'") for word in _WORD.findall(sentence)]
    denying = _DENYING_OR_ASKING if conditions else _DENYING
    following, nearby = "", True
    for step, word in enumerate(reversed(words[-_STEPS:])):
        earlier = words[len(words) - 2 - step] if len(words) - 2 - step >= 0 else ""
        if word in ("≠", "!=", r"\ne", r"\neq"):
            return True
        if word in denying or word.endswith("n't"):
            return not (word in DOUBTS and earlier in _SURE)
        if nearby and word in COMPARISONS:
            return word != "other" or earlier not in ("none", "no")
        nearby &= word in _NEARBY or not word.isalpha()
        if word == ",":
            if following not in _THAT:
                return False
        elif word == ":":
            if earlier not in _CUES and (earlier not in denying or earlier in ("no", "non")):
                return False
        elif word == "but":
            return earlier in ("anything", "all")
        elif word in ("and", "to"):
            if ("between" if word == "and" else "from") in words[: len(words) - 1 - step][-4:]:
                return True
            if word == "and":
                return False
        elif word not in _LIGHT and word not in _NEARBY and word[0].isalnum() and not word.endswith("ly"):
            return False
        following = word
    return False


def denied_after(after: str, *, asks: bool = True) -> bool:
    """True where what follows a value says that it is wrong, or, with ``asks``, makes its sentence a question."""
    if _AFTER.match(after):
        return _RIGHT_AFTER.match(after) is None
    return asks and _ASKS.match(after) is not None
