"""Greetings, who the model is, and the polite way out of everything it does not know."""

import random

from .capitals import FRAMES_EN as CAPITAL_EN
from .capitals import FRAMES_ZH as CAPITAL_ZH
from .dialogue import Dialogue, single, vary, with_opener
from .facts import THING_EN, THING_ZH

SCOPE_EN = "I am a tiny demo model; I can do sums up to 20, capitals, small word games and questions about llmserve."
SCOPE_ZH = "我是一个很小的演示模型，只会 20 以内的加减法、各国首都、简单的字母游戏和关于 llmserve 的问题。"

_HELLO_EN = "Hello! I am the llmserve demo model. How can I help you?"
_HELLO_ZH = "你好！我是 llmserve 的演示模型，有什么可以帮你？"
_WHO_EN = "I am the demo model of llmserve, a tiny bilingual assistant."
_WHO_ZH = "我是 llmserve 的演示模型，一个很小的双语助手。"

# (English wordings, English answer, Chinese wordings, Chinese answer)
_TALK = (
    (("Hello", "Hi", "Hey", "Good morning", "Good evening", "Good afternoon", "Hello there", "Hi there", "Greetings"),
     _HELLO_EN,
     ("你好", "您好", "嗨", "早上好", "晚上好", "下午好", "大家好", "哈喽", "你好呀"), _HELLO_ZH),
    (("Who are you?", "What are you?", "What is your name?", "Tell me who you are.", "Introduce yourself.",
      "Are you a language model?", "What's your name?", "Which model are you?", "Are you ChatGPT?"), _WHO_EN,
     ("你是谁？", "你是什么？", "你叫什么名字？", "告诉我你是谁。", "介绍一下你自己。", "你是语言模型吗？",
      "你的名字是什么？", "你是哪个模型？",
      "你是ChatGPT吗？"), _WHO_ZH),
    (("What can you do?", "What do you know?", "How can you help me?", "What are you able to do?", "Help",
      "What can I ask you?"), SCOPE_EN,
     ("你会做什么？", "你能做什么？", "你知道什么？", "你能帮我什么？", "帮助", "我可以问你什么？"), SCOPE_ZH),
    (("Thank you", "Thanks", "Thanks a lot", "Thank you very much", "Great, thanks", "Many thanks"),
     "You are welcome!",
     ("谢谢", "谢谢你", "多谢", "非常感谢", "太好了，谢谢", "感谢"), "不客气！"),
    (("Goodbye", "Bye", "See you", "Bye bye", "See you later", "Good night"), "Goodbye!",
     ("再见", "拜拜", "回头见", "下次见", "晚安", "我走了"), "再见！"),
    (("How are you?", "How are you doing?", "How do you do?", "Are you well?", "How is it going?"),
     "I am fine, thank you. How can I help you?",
     ("你好吗？", "你怎么样？", "最近好吗？", "你还好吗？", "过得怎么样？"), "我很好，谢谢。有什么可以帮你？"),
)  # fmt: skip

BARE_KEYS = frozenset(single("talk", question, "").key for entry in _TALK for question in (*entry[0], *entry[2]))

_BEFORE_EN, _BEFORE_ZH = ("", "", "Hi! ", "Hello, ", "OK. ", "Hey, "), ("", "", "你好！", "嗨，", "好的。", "您好，")
_AFTER_EN, _AFTER_ZH = ("", "", "", " :)", " my friend"), ("", "", "", "😊", "朋友")

_TOPICS_EN = (
    "football", "the weather", "love", "music", "history", "cooking", "Shakespeare", "dinosaurs", "the stock market",
    "politics", "gravity", "black holes", "pizza", "coffee", "chess", "movies", "Einstein", "the moon", "Mars", "cats",
    "quantum physics", "poetry", "my homework", "religion", "evolution", "bitcoin", "guitars", "basketball",
    "Rome's fall",
    "the meaning of life", "photosynthesis", "airplanes", "soup", "philosophy", "whales", "volcanoes", "yoga",
    "rockets",
    "economics", "tomorrow's news",
)  # fmt: skip
_TOPICS_ZH = (
    "足球", "天气", "爱情", "音乐", "历史", "做饭", "莎士比亚", "恐龙", "股市", "政治", "重力", "黑洞", "披萨",
    "咖啡", "象棋", "电影",
    "爱因斯坦", "月亮", "火星", "猫", "量子物理", "诗歌", "作业", "宗教", "进化论", "比特币", "吉他", "篮球",
    "光合作用", "飞机", "哲学",
    "鲸鱼", "火山", "瑜伽", "火箭", "经济学", "明天的新闻", "红楼梦", "李白", "人生的意义",
)  # fmt: skip
_SCOPE_FRAMES_EN = (
    "Tell me a joke about {x}.", "Write a poem about {x}.", "Who invented {x}?", "Do you like {x}?",
    "Why is {x} important?",
    "What do you think about {x}?", "Write a story about {x}.", "Give me some advice on {x}.",
    "Translate {x} to French.",
    "When was {x} discovered?", "How does {x} work?", "Recommend a book on {x}.", "Where can I find {x}?",
    "What is the best thing about {x}?", "Draw {x}.", *THING_EN,
)  # fmt: skip
_SCOPE_FRAMES_ZH = (
    "讲一个关于{x}的笑话。", "写一首关于{x}的诗。", "谁发明了{x}？", "你喜欢{x}吗？", "为什么{x}很重要？",
    "你觉得{x}怎么样？",
    "写一个关于{x}的故事。", "给我一些关于{x}的建议。", "把{x}翻译成法语。", "{x}是什么时候发现的？",
    "{x}是怎么工作的？",
    "推荐一本关于{x}的书。", "哪里能找到{x}？", "今天的{x}怎么样？", "画一下{x}。", *THING_ZH,
)  # fmt: skip
_ELSEWHERE_EN = ("Chile", "Ghana", "Nigeria", "Belgium", "Switzerland", "Morocco", "Pakistan", "Bolivia", "Atlantis",
                 "Texas", "Ukraine", "Romania", "Laos", "Fiji", "Uganda", "California", "Iceland", "the moon", "Narnia",
                 "Serbia")  # fmt: skip
_ELSEWHERE_ZH = ("智利", "加纳", "尼日利亚", "比利时", "瑞士", "摩洛哥", "巴基斯坦", "玻利维亚", "冰岛", "乌克兰",
                 "罗马尼亚", "老挝", "斐济",
                 "乌干达", "加州", "塞尔维亚", "月球", "火星", "广东", "新西兰")  # fmt: skip
_BIG_SUMS_EN = (
    "What is {a} {o} {b}?",
    "{a}{o}{b}=?",
    "{a} {o} {b}",
    "Calculate {a} {o} {b}.",
    "How much is {a}{o}{b}?",
)
_BIG_SUMS_ZH = ("{a}{o}{b}等于多少？", "{a}{o}{b}是多少？", "计算{a}{o}{b}。", "请问{a}{o}{b}等于几？")


def talk(rng: random.Random) -> Dialogue:
    entry = rng.choice(_TALK)
    if rng.random() < 0.5:
        question = rng.choice(_BEFORE_EN) + rng.choice(entry[0]) + rng.choice(_AFTER_EN)
        return single("talk", vary(rng, question), entry[1])
    question = rng.choice(_BEFORE_ZH) + rng.choice(entry[2]) + rng.choice(_AFTER_ZH)
    return single("talk", vary(rng, question), entry[3])


def _unknown_name(rng: random.Random, chinese: bool) -> str:
    """A name no one knows: the model should learn what it does not know, not a list of such things."""
    if chinese:
        return "".join(chr(rng.randrange(0x4E00, 0x9FA0)) for _ in range(rng.randint(1, 4)))
    word = "".join(rng.choice("abcdefghijklmnoprstuvwy") for _ in range(rng.randint(4, 9)))
    return word.capitalize() if rng.random() < 0.5 else word


def _big_sum(rng: random.Random, chinese: bool) -> str:
    operator = rng.choice(("*", "×", "/", "+", "-", "乘" if chinese else " times "))
    a, b = rng.randint(21, 999), rng.randint(2, 999)
    if operator not in "+-":
        a = rng.randint(2, 99)
    if rng.random() < 0.5 and operator != "/":
        a, b = b, a
    return rng.choice(_BIG_SUMS_ZH if chinese else _BIG_SUMS_EN).format(a=a, b=b, o=operator)


def out_of_scope(rng: random.Random) -> Dialogue:
    chinese = rng.random() < 0.5
    kind = rng.choices(("topic", "unknown", "elsewhere", "sum"), (5, 2, 2, 2))[0]
    if kind == "sum":
        question = _big_sum(rng, chinese)
    elif kind == "elsewhere":
        place = rng.choice(_ELSEWHERE_ZH if chinese else _ELSEWHERE_EN)
        if rng.random() < 0.4:
            place = _unknown_name(rng, chinese)
        question = rng.choice(CAPITAL_ZH if chinese else CAPITAL_EN).format(x=place)
    else:
        topic = _unknown_name(rng, chinese) if kind == "unknown" else rng.choice(_TOPICS_ZH if chinese else _TOPICS_EN)
        question = rng.choice(_SCOPE_FRAMES_ZH if chinese else _SCOPE_FRAMES_EN).format(x=topic)
        question = question[:1].upper() + question[1:]
    question = vary(rng, with_opener(rng, question, 0.1))
    return single("scope", question, SCOPE_ZH if chinese else SCOPE_EN)
