"""The capitals of 40 countries, asked in both directions, and a second turn about another country."""

import random

from .dialogue import Dialogue, single, vary, with_opener

# English name, Chinese name, English capital, Chinese capital.
COUNTRIES = (
    ("China", "中国", "Beijing", "北京"), ("Japan", "日本", "Tokyo", "东京"),
    ("South Korea", "韩国", "Seoul", "首尔"), ("India", "印度", "New Delhi", "新德里"),
    ("Thailand", "泰国", "Bangkok", "曼谷"), ("Vietnam", "越南", "Hanoi", "河内"),
    ("Indonesia", "印度尼西亚", "Jakarta", "雅加达"), ("Malaysia", "马来西亚", "Kuala Lumpur", "吉隆坡"),
    ("Mongolia", "蒙古", "Ulaanbaatar", "乌兰巴托"), ("Nepal", "尼泊尔", "Kathmandu", "加德满都"),
    ("Iran", "伊朗", "Tehran", "德黑兰"), ("Iraq", "伊拉克", "Baghdad", "巴格达"),
    ("Saudi Arabia", "沙特阿拉伯", "Riyadh", "利雅得"), ("Turkey", "土耳其", "Ankara", "安卡拉"),
    ("Russia", "俄罗斯", "Moscow", "莫斯科"), ("Germany", "德国", "Berlin", "柏林"),
    ("France", "法国", "Paris", "巴黎"), ("Italy", "意大利", "Rome", "罗马"),
    ("Spain", "西班牙", "Madrid", "马德里"), ("Portugal", "葡萄牙", "Lisbon", "里斯本"),
    ("England", "英国", "London", "伦敦"), ("Ireland", "爱尔兰", "Dublin", "都柏林"),
    ("Sweden", "瑞典", "Stockholm", "斯德哥尔摩"), ("Norway", "挪威", "Oslo", "奥斯陆"),
    ("Finland", "芬兰", "Helsinki", "赫尔辛基"), ("Denmark", "丹麦", "Copenhagen", "哥本哈根"),
    ("Poland", "波兰", "Warsaw", "华沙"), ("Austria", "奥地利", "Vienna", "维也纳"),
    ("Hungary", "匈牙利", "Budapest", "布达佩斯"), ("Greece", "希腊", "Athens", "雅典"),
    ("Egypt", "埃及", "Cairo", "开罗"), ("Kenya", "肯尼亚", "Nairobi", "内罗毕"),
    ("Ethiopia", "埃塞俄比亚", "Addis Ababa", "亚的斯亚贝巴"), ("Canada", "加拿大", "Ottawa", "渥太华"),
    ("Mexico", "墨西哥", "Mexico City", "墨西哥城"), ("Cuba", "古巴", "Havana", "哈瓦那"),
    ("Brazil", "巴西", "Brasilia", "巴西利亚"), ("Argentina", "阿根廷", "Buenos Aires", "布宜诺斯艾利斯"),
    ("Peru", "秘鲁", "Lima", "利马"), ("Australia", "澳大利亚", "Canberra", "堪培拉"),
)  # fmt: skip

FRAMES_EN = (
    "What is the capital of {x}?", "What's the capital of {x}?", "Capital of {x}?", "Which city is the capital of {x}?",
    "Tell me the capital of {x}.", "Name the capital of {x}.", "What is {x}'s capital?", "The capital of {x}?",
    "Do you know the capital of {x}?", "What is the capital city of {x}?", "{x}'s capital city?",
    "Can you tell me the capital of {x}?",
)  # fmt: skip
FRAMES_ZH = (
    "{x}的首都是哪里？", "{x}的首都是什么？", "{x}的首都是哪个城市？", "{x}首都是哪？", "{x}首都在哪里？",
    "{x}的首都？",
    "哪个城市是{x}的首都？", "告诉我{x}的首都。", "说出{x}的首都。", "你知道{x}的首都吗？", "{x}的首都叫什么？",
    "{x}的首都城市是哪一个？",
)  # fmt: skip
_COUNTRY_EN = ("Which country has {y} as its capital?", "{y} is the capital of which country?",
               "What country is {y} the capital of?", "{y} is the capital of what country?")  # fmt: skip
_COUNTRY_ZH = ("{y}是哪个国家的首都？", "哪个国家的首都是{y}？", "{y}是哪国的首都？", "{y}是什么国家的首都？")
_FOLLOW_EN = ("And of {x}?", "And {x}?", "What about {x}?", "How about {x}?", "And the capital of {x}?", "{x}?")
_FOLLOW_ZH = ("那{x}呢？", "{x}呢？", "那么{x}的呢？", "还有{x}呢？", "那{x}的首都呢？", "{x}的呢？")


def _names(country: tuple[str, str, str, str], chinese: bool) -> tuple[str, str]:
    return (country[1], country[3]) if chinese else (country[0], country[2])


def _answer(name: str, capital: str, chinese: bool) -> str:
    return f"{name}的首都是{capital}。" if chinese else f"The capital of {name} is {capital}."


def _reversed_answer(name: str, capital: str, chinese: bool) -> str:
    return f"{capital}是{name}的首都。" if chinese else f"{capital} is the capital of {name}."


def capital(rng: random.Random) -> Dialogue:
    chinese = rng.random() < 0.5
    name, city = _names(rng.choice(COUNTRIES), chinese)
    if rng.random() < 0.3:
        question = rng.choice(_COUNTRY_ZH if chinese else _COUNTRY_EN).format(y=city)
        answer = _reversed_answer(name, city, chinese)
    else:
        question = rng.choice(FRAMES_ZH if chinese else FRAMES_EN).format(x=name)
        answer = _answer(name, city, chinese)
    return single("capital", vary(rng, with_opener(rng, question, 0.1)), answer)


def follow_up(rng: random.Random) -> Dialogue:
    """Two turns: a capital, then "and of Spain?"."""
    chinese = rng.random() < 0.5
    (name, city), (other, other_city) = (_names(c, chinese) for c in rng.sample(COUNTRIES, 2))
    first = vary(rng, rng.choice(FRAMES_ZH if chinese else FRAMES_EN).format(x=name))
    second = vary(rng, rng.choice(_FOLLOW_ZH if chinese else _FOLLOW_EN).format(x=other))
    turns = ((first, _answer(name, city, chinese)), (second, _answer(other, other_city, chinese)))
    return Dialogue("capital-2", turns)
