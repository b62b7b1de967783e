"""Answers of many forms: the right ones that must earn their point, and the wrong ones that look right."""


def choice(letter, *choices):
    return {"letter": letter, "text": choices["ABCDEFG".index(letter)], "choices": list(choices)}


BOOKS = ["Travel", "Cooking", "Sports", "History"]

# fmt: off
RIGHT = [
    ("mcq", choice("B", *BOOKS), [
        "B", "b", "**B**", "The answer is **B**.", "Answer: B", "answer is (B) Cooking", "I choose B", "\u9009B",
        "\u9009\u9879B", "\u5e94\u8be5\u9009B", "\u7b54\u6848\u4e3aB", "\u6b63\u786e\u7b54\u6848\u662f B",
        "\u7b54\u6848\uff1a(B)", "B. Cooking.", "\\boxed{\\text{B}}", "\\text{B}", "Option (B)",
        "option b: cooking", "B - Cooking", "B\nCooking", "'B'", "B\u3002", "\u3010B\u3011", "Choice B",
        "the correct choice is B", "So the answer is B", "Therefore, the answer is B.", "Final answer: B",
        "B is the correct answer", "The right option is B", "(B).", "B.", "[B] Cooking", "<B>", "b.",
        "Cooking is correct", "B \u6b63\u786e", "Cooking.", "cooking (B)", "\\boxed{B. Cooking}", "$\\boxed{B}$",
        "\\(B\\)", "The best answer is \"B\"", "My answer is B", "The answer: B", "B: Cooking",
        "\uff22\uff0eCooking", "\u201cB\u201d", "Answer is B", "It's B", "It is B.", "Hence the answer is (B).",
        "B) Cooking", "Thus, B",
    ]),
    ("mcq", choice("A", "A dog", "A cat", "The bird"), [
        "a dog", "A dog", "A", "dog", "The dog", "A. A dog", "the dog.",
    ]),
    ("mcq", choice("B", "A dog", "A cat", "The bird"), [
        "a cat", "A cat", "B", "cat", "B. cat", "B. A cat",
    ]),
    ("mcq", choice("C", "A dog", "A cat", "The bird"), [
        "bird", "a bird", "C", "the bird",
    ]),
    ("mcq", choice("B", "10", "10%"), [
        "B", "10%", "B. 10%", "10 percent", "ten percent",
    ]),
    ("mcq", choice("A", "3", "4"), [
        "three", "3.", "A", "A. three",
    ]),
    ("mcq", choice("A", "x > 3", "x < 3"), [
        "x>3", "$x > 3$", "A. x>3", "\\boxed{x > 3}",
    ]),
    ("mcq", choice("C", "yes", "no", "maybe"), [
        "maybe", "C",
    ]),
    ("vqa", {"answers": ["red"]}, [
        "red", "Red.", "\"red\"", "'red'", "**red**", "The answer is red.", "It is red", "\\boxed{\\text{red}}",
        "$red$", "It's red.", "\\text{red}", "Answer: red", "answer: Red", "RED", "red\u3002",
        "\u7b54\u6848\u662fred",
    ]),
    ("vqa", {"answers": ["yes"]}, [
        "yes", "Yes.", "YES", "Yes!", "Yes, it is.", "yes - it is", "\\boxed{Yes}", "\\boxed{\\text{Yes}}",
        "Yes; the car is red.", "Yes: it is red", "The answer is yes.", "The answer is: Yes", "**Yes**",
        "Yes\n\nThe person stands there.", "\"Yes\"", "Yes \u2014 because the light is green",
        "Yes (there are two of them)", "It is yellow, so yes.", "Yes\u3002", "Yes, there is a car.",
    ]),
    ("vqa", {"answers": ["no"]}, [
        "no", "No.", "No, it is not.", "No, there isn't.", "No - nothing is there", "No\nThere is nothing.",
        "\\boxed{No}", "No, none.", "The answer is no",
    ]),
    ("vqa", {"answers": ["3"]}, [
        "3", "three", "3.", "There are 3", "there are three people", "3 people", "3 persons", "I see 3 cars.",
        "The answer is 3", "\\boxed{3}", "3\u4e2a", "\u4e09", "\u4e09\u4e2a", "\uff13", "3\u8f86\u8f66",
        "\u67093\u4e2a\u4eba", "\u4e00\u5171\u6709\u4e09\u4e2a", "\u51713\u4eba", "**3**", "3 (three)",
        "three (3)", "The number of cars is 3", "exactly 3", "Only 3", "count: 3", "Total: 3",
    ]),
    ("vqa", {"answers": ["-5"]}, [
        "-5", "\u22125", "\u20135", "minus 5", "negative 5", "- 5", "minus five", "negative five", "\\boxed{-5}",
        "-5.0",
    ]),
    ("vqa", {"answers": ["0.5"]}, [
        ".5", "0.50", "0.5",
    ]),
    ("vqa", {"answers": ["1,250"]}, [
        "1250", "1,250", "1250.0",
    ]),
    ("vqa", {"answers": ["5%"]}, [
        "5%", "5 %", "5 percent", "five percent", "5 per cent",
    ]),
    ("vqa", {"answers": ["$5"]}, [
        "$5", "$5.00", "$ 5",
    ]),
    ("vqa", {"answers": ["\u00bd"]}, [
        "1/2", "\u00bd",
    ]),
    ("vqa", {"answers": ["don't walk"]}, [
        "don\u2019t walk", "Don't walk",
    ]),
    ("vqa", {"answers": ["t-shirt"]}, [
        "t shirt", "T-Shirt", "T-shirt.",
    ]),
    ("vqa", {"answers": ["caf\u00e9"]}, [
        "Cafe\u0301",
    ]),
    ("vqa", {"answers": ["black and white"]}, [
        "black & white", "Black and white",
    ]),
    ("vqa", {"answers": ["covid-19"]}, [
        "COVID-19", "covid 19",
    ]),
    ("vqa", {"answers": ["10:30"]}, [
        "10:30", "10:30.",
    ]),
    ("vqa", {"answers": ["2020-01-02"]}, [
        "2020-01-02",
    ]),
    ("vqa", {"answers": ["top-left"]}, [
        "top left",
    ]),
    ("vqa", {"answers": ["U.S.A."]}, [
        "U.S.A.",
    ]),
    ("vqa", {"answers": ["St. John's"]}, [
        "St John's", "st. john\u2019s",
    ]),
    ("count", {"value": 3}, [
        "3", "three", "Three.", "3.0", "There are 3.", "There are three of them", "3\u4e2a", "\u4e09",
        "\u4e09\u4e2a\u4eba", "\u4e09\u53ea\u732b", "\u6709\u4e09\u53ea", "3\u4eba", "\\boxed{3}", "$3$", "**3**",
        "I count 3 people", "3 cars", "= 3", "The total is 3", "a total of 3", "3 people in the image",
        "three people are visible", "there're 3",
    ]),
    ("count", {"value": 0}, [
        "0", "zero", "none", "None.", "There are no cars",
    ]),
    ("count", {"value": 12}, [
        "12", "twelve", "a dozen", "1 dozen", "one dozen", "\u5341\u4e8c", "12\u4e2a", "12 people",
    ]),
    ("count", {"value": 1200}, [
        "1200", "1,200", "twelve hundred", "one thousand two hundred", "1.2 thousand",
    ]),
    ("count", {"value": 2}, [
        "\u4e24\u4e2a", "\u4e8c", "2\u4e2a", "two", "\u4e24\u4eba",
    ]),
    ("count", {"value": 25}, [
        "\u4e8c\u5341\u4e94", "25\u4e2a",
    ]),
    ("count", {"value": 110}, [
        "\u4e00\u767e\u4e00\u5341", "110",
    ]),
    ("math", {"answer": "1/2"}, [
        "0.5", "\u00bd", "\\frac12", "\\frac{1}{2}", ".5",
    ]),
    ("math", {"answer": "\\sqrt{2}"}, [
        "\u221a2", "\\sqrt2", "\u221a(2)", "\\sqrt{2}",
    ]),
    ("math", {"answer": "120^\\circ"}, [
        "120\u00b0", "120^{\\circ}", "120", "120 degrees",
    ]),
    ("math", {"answer": "2^{10}"}, [
        "1024", "2\u00b9\u2070", "2^10",
    ]),
    ("math", {"answer": "x^2"}, [
        "x\u00b2", "x^{2}",
    ]),
    ("math", {"answer": "-3"}, [
        "\u22123", "\u20133", "-3", "- 3", "-3.0",
    ]),
    ("math", {"answer": "1000"}, [
        "1,000", "10^3", "1 000", "1000",
    ]),
    ("math", {"answer": "5 \\text{ cm}"}, [
        "5 cm", "5\\text{ cm}", "5cm", "5 \\mathrm{cm}", "5",
    ]),
    ("math", {"answer": "\\infty"}, [
        "\u221e", "\\infty", "+\\infty",
    ]),
    ("math", {"answer": "-\\infty"}, [
        "-\u221e", "-\\infty",
    ]),
    ("math", {"answer": "\\pi"}, [
        "\u03c0", "\\pi",
    ]),
    ("math", {"answer": "x \\le 3"}, [
        "x \u2264 3", "x \\leq 3",
    ]),
    ("math", {"answer": "3"}, [
        "x = 3", "\\boxed{3}", "three", "x=3", "3.", "\\text{3}",
    ]),
    ("math", {"answer": "2.5"}, [
        "5/2", "2 1/2", "2.50", "2\u00bd",
    ]),
    ("math", {"answer": "\\frac{3}{4}"}, [
        "3/4", "0.75", "\u00be",
    ]),
    ("math", {"answer": "10%"}, [
        "10\\%", "10%", "0.1",
    ]),
    ("math", {"answer": "even"}, [
        "even", "Even",
    ]),
    ("math", {"answer": "{1,2}"}, [
        "\\{1,2\\}", "{1, 2}", "\\{2, 1\\}",
    ]),
    ("math", {"answer": "(1,2)"}, [
        "(1, 2)", "(1,2)",
    ]),
    ("math", {"answer": "0.0000001"}, [
        "1e-7", "10^{-7}", "1 \\times 10^{-7}",
    ]),
]
WRONG = [
    ("mcq", choice("B", *BOOKS), [
        "A", "C", "A. Cooking", "Travel", "B or C", "not B", "B. Travel", "The answer is not B", "A, B",
        "Both A and B", "B and C", "all of the above", "B, C", "\u7b54\u6848\u4e0d\u662fB", "\u4e0d\u9009B",
        "B\u4e0d\u6b63\u786e", "Cooking or Travel", "(A) B", "B (A)", "Travel (B)", "B? No, A.",
        "Maybe B, maybe C", "I don't know", "none", "B is wrong", "B is not correct", "\\boxed{A}",
        "\\boxed{A}\\boxed{B}", "A Cooking", "a. cooking", "Not Cooking", "neither B", "B/C", "BC", "B C",
        "A: Cooking", "A - Cooking", "A\nCooking", "\u9009A", "Cooking is not correct", "A) Cooking",
        "[A] Cooking",
    ]),
    ("mcq", choice("B", "Is open", "Is not open"), [
        "Is open", "A", "A. Is not open", "open",
    ]),
    ("mcq", choice("A", "H2O", "H\u2082O"), [
        "B", "H\u2082O",
    ]),
    ("mcq", choice("A", "x\u00b2", "x2"), [
        "B", "x2",
    ]),
    ("mcq", choice("A", "10 m", "10 km"), [
        "B", "10 km",
    ]),
    ("mcq", choice("A", "-3", "3"), [
        "3", "B", "+3",
    ]),
    ("mcq", choice("A", "\u2265 5", "> 5"), [
        "> 5", "B",
    ]),
    ("mcq", choice("A", "Co", "CO"), [
        "B", "CO",
    ]),
    ("mcq", choice("A", "\u00acp", "p"), [
        "p", "B",
    ]),
    ("mcq", choice("A", "5'", "5\""), [
        "B", "5\"",
    ]),
    ("mcq", choice("A", "(1, 2)", "[1, 2]"), [
        "B", "[1, 2]",
    ]),
    ("mcq", choice("A", "2/3", "2-3", "23"), [
        "B", "C", "2-3", "23",
    ]),
    ("mcq", choice("A", "f(x)", "f x"), [
        "B",
    ]),
    ("mcq", choice("A", "\u00bd", "12"), [
        "B", "12",
    ]),
    ("mcq", choice("A", "a", "the"), [
        "B",
    ]),
    ("mcq", choice("A", "2^3", "23"), [
        "B", "23",
    ]),
    ("mcq", choice("A", "\u2642", "\u2640"), [
        "\u2640", "B",
    ]),
    ("vqa", {"answers": ["yes"]}, [
        "no", "yes and no", "yes/no", "Yes? No.", "not yes", "yes, if you ignore it... or no", "Yes, but no",
        "Yes... actually no", "maybe yes", "yes or maybe not", "Yes, it isn't", "yes, not really", "possibly yes",
        "Yes and also no.", "no yes", "I think yes, though it might be no", "yes\nno", "Yes. No.",
        "\u662f\u6216\u4e0d\u662f", "Yes, or rather no", "either yes or no",
    ]),
    ("vqa", {"answers": ["no"]}, [
        "yes", "no, yes", "No... yes", "not no", "no, maybe yes", "no, but yes", "No. Yes.", "perhaps no",
        "no or yes", "No, wait. Yes",
    ]),
    ("vqa", {"answers": ["5"]}, [
        "5%", "-5", "5+", "~5", "\u22485", "5 or 6", "more than 5", "fewer than 5", "at least 5", "at most 5",
        "5 million", "5 dozen", "5k", "5 thousand", "not 5", "5.5", "55", "5\u00b2", "5!", "\u221a5", "5/2", "1/5",
        "5:1", "\u00b15", ">5", "<5", "\u2265 5", "\u22605", "5\u00b0", "$5", "\u20ac5", "half of 5", "5 pairs",
        "up to 5", "over 5", "5 or so", "almost 5", "around 5", "roughly 5", "5 or fewer", "5 billion", "5e3",
        "5 hundred", "5 percent", "minus 5", "\u2013 5", "negative 5", "5th", "5x", "5 times 2", "between 4 and 5",
        "5\u4e2a\u4ee5\u4e0a", "\u4e0d\u662f5", "\u81f3\u5c115\u4e2a", "5\u4e07", "\u7ea65\u4e2a", "\u5927\u7ea65",
        "5\u591a\u4e2a", "\u4e0d\u52305\u4e2a", "\u8d85\u8fc75\u4e2a", "no 5", "without 5", "5 squared", "under 5",
        "5 plus", "5-10", "-5 people",
    ]),
    ("vqa", {"answers": ["$5"]}, [
        "\u20ac5", "5%", "\u00a35", "$50", "-$5", "$5M", "$0.5",
    ]),
    ("vqa", {"answers": ["x > 3"]}, [
        "x < 3", "x \u2265 3", "x = 3", "x 3", "x > -3", "x > 30", "x >> 3",
    ]),
    ("vqa", {"answers": ["A \u2192 B"]}, [
        "A \u2190 B", "B \u2192 A", "A B",
    ]),
    ("vqa", {"answers": ["red"]}, [
        "not red", "non-red", "red or blue", "maybe red", "red?  no blue", "anything but red",
        "\\boxed{red} \\boxed{blue}", "red/blue",
    ]),
    ("vqa", {"answers": ["C++"]}, [
        "C", "C+", "C#",
    ]),
    ("vqa", {"answers": ["0.5"]}, [
        "5", "05", "0,5", "-0.5", "0.05",
    ]),
    ("vqa", {"answers": ["10 km"]}, [
        "10 m", "10", "10 mi",
    ]),
    ("vqa", {"answers": ["a cat"]}, [
        "the a", "not a cat", "no cat", "cat-free",
    ]),
    ("vqa", {"answers": ["3-2"]}, [
        "3+2", "32", "3 2",
    ]),
    ("vqa", {"answers": ["1.5"]}, [
        "15", "1 5", "1:5",
    ]),
    ("vqa", {"answers": ["2\u00b2"]}, [
        "22", "2",
    ]),
    ("vqa", {"answers": ["left"]}, [
        "not left", "left or right", "right",
    ]),
    ("vqa", {"answers": ["100"]}, [
        "100%", "1,00", "10 0",
    ]),
    ("vqa", {"answers": ["#1"]}, [
        "1", "#2",
    ]),
    ("count", {"value": 3}, [
        "4", "3+", "3-4", "3 or 4", "not 3", "more than 3", "3 million", "3 dozen", "3%", "-3", "\u20133", "3.5",
        "30", "no 3", "at least 3", "about 3", "3 pairs", "~3", "\uff13\uff10", "\u4e09\u5341",
        "\u4e09\u5341\u4e09", "3\u4e2a\u4ee5\u4e0a", "\u4e0d\u662f\u4e09\u4e2a", "\u4e09\u56db\u4e2a",
        "3 thousand", "1/3", "3/4", "3\u00b2", "3!", "third", "3rd", "thrice", "three quarters", "three hundred",
        "three or more", "between 3 and 4", "3 to 4", "up to 3", "3 times", "fewer than three", "three-fifths",
        "3k", "none, or 3", "$3", "3:2", "3,4", "half of 3", "\u22653", "no more than 3", "not more than three",
        "less than 3", "3 fewer", "minus three", "3 plus 1", "\u5927\u7ea63", "\u7ea6\u4e09\u4e2a",
        "\u81f3\u5c113", "\u4e09\u767e", "3\u4e07", "3\u5343", "double 3", "0.3", ".3", "3e2",
    ]),
    ("count", {"value": 12}, [
        "a dozen or so", "about a dozen", "two dozen", "half a dozen", "dozens", "12 dozen",
    ]),
    ("count", {"value": 0}, [
        "no idea", "not none", "none or 1", "zero or more", "no more than 5",
    ]),
    ("math", {"answer": "x"}, [
        "-x", "|x|", "x!", "\u00b1x", "2x", "x^2", "\u221ax", "X", "x+", "\u00acx", "x'", "1/x", "x\u00b2",
    ]),
    ("math", {"answer": "2"}, [
        "\u221a2", "\u22602", ">2", "\u00b12", "2+", "-2", "2%", "2 million", "2 or 3", "not 2", "about 2", "~2",
        "2^2", "2\u00b2", "22", "2 2", "2.5", "2x", "2i", "<2", "\u22482", "2!!!x", "at least 2", "2 dozen",
        "\\pm 2", "-2.0", "2 \\text{ million}", "2:3", "x > 2", "x \\neq 2",
    ]),
    ("math", {"answer": "16"}, [
        "1 6", "1.6", "1,6", "61", "160", "16%", "16!",
    ]),
    ("math", {"answer": "1 1/2"}, [
        "11/2", "1/2", "1.2", "1 1/3",
    ]),
    ("math", {"answer": "0.0000001"}, [
        "0.0000002", "0", "1e-8", "10^{-6}",
    ]),
    ("math", {"answer": "2^{-99}"}, [
        "2^{-98}", "0", "2^{99}", "-2^{-99}",
    ]),
    ("math", {"answer": "\\infty"}, [
        "-\\infty", "-\u221e", "1/\\infty", "0",
    ]),
    ("math", {"answer": "5 \\text{ cm}"}, [
        "5 km", "5 m", "50 cm", "-5 cm", "5 kg", "6", "5\\text{ mm}",
    ]),
    ("math", {"answer": "22"}, [
        "2\u00b2", "2^2",
    ]),
    ("math", {"answer": "A"}, [
        "-A", "\u00acA", "B", "a", "A or B",
    ]),
    ("math", {"answer": "n!"}, [
        "n", "n!!x", "N!",
    ]),
    ("math", {"answer": "10"}, [
        "10!", "10%",
    ]),
    ("math", {"answer": "1e-12"}, [
        "2e-12", "1e-13",
    ]),
    ("math", {"answer": "3 \\text{ hours}"}, [
        "3 minutes", "3 days",
    ]),
    ("math", {"answer": "10^{-20}"}, [
        "10^{-21}", "10^{-19}", "-10^{-20}", "0",
    ]),
    ("math", {"answer": "\\frac{1}{10^{9}}"}, [
        "\\frac{2}{10^{9}}",
    ]),
    ("math", {"answer": "x<3"}, [
        "x>3", "x \\le 3", "x=3", "3",
    ]),
    ("math", {"answer": "5 m"}, [
        "5 km", "5 cm",
    ]),
    ("math", {"answer": "5"}, [
        "5 million", "5 \\text{ or } 6", "5 dozen",
    ]),
]
# fmt: on
