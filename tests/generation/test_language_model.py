"""A real language model rewrites captions. Oracle: the captions themselves, and what a rewrite has to be."""

import re
from collections import Counter

import pytest
from made.language_model import language_model

from neuclip.generation.backend import Ended, Message, Question
from neuclip.generation.config import LocalModel, Sampling
from neuclip.generation.local_model import LocalChat

EXAMPLES = [
    ("dog running on the beach", "A dog sprints along the sandy shore."),
    ("red car parked near old house", "Beside an old house stands a parked red car."),
    ("wooden chair, handmade, oak", "A handmade chair made of oak wood."),
]
CAPTIONS = [
    "two children eating ice cream in a park",
    "a cat sleeping on a blue sofa",
    "view of the harbour of Lisbon at sunset",
    "fresh bread on a wooden table with butter",
    "man riding a bicycle through a rainy street",
    "snow covered mountains behind a green lake",
    "vintage camera with leather strap on a map",
    "a woman reading a book under an apple tree",
    "yellow taxi in front of a tall building in New York",
    "close-up of a bee on a purple flower",
    "old lighthouse on a rocky coast in a storm",
    "a bowl of noodle soup with egg and spring onion",
    "three horses grazing behind a wooden fence",
    "kitchen with white cupboards and a red kettle",
    "football players celebrating a goal in the stadium",
    "a narrow street with flower pots and cats",
    "black bicycle leaning against a brick wall",
    "grandmother knitting by the window in winter",
    "a train crossing a stone bridge over a river",
    "colourful balloons above a field at dawn",
    "small boat tied to a jetty in the fog",
    "a boy feeding ducks at the pond",
    "desk with a laptop, a cup of coffee and glasses",
    "market stall with oranges, lemons and limes",
    "an astronaut floating above the earth",
]


def questions(count):
    instructions = Message("system", "You rewrite captions of images. Answer with one caption.")
    shown = [
        Message(role, text)
        for before, after in EXAMPLES
        for role, text in (("user", f"Rewrite: {before}"), ("assistant", after))
    ]
    for number in range(count):
        text = f"Rewrite: {CAPTIONS[number % len(CAPTIONS)]}"
        yield Question(str(number), (instructions, *shown, Message("user", text)))


def status(caption, reply):
    """Sort an answer by rules that are simpler than those of the stage."""
    words = re.findall(r"\w+", reply.text.lower())
    if reply.ended is not Ended.STOP:
        return reply.ended.value
    if not 2 <= len(words) <= 40 or "\n" in reply.text.strip():
        return "no single sentence"
    if words == re.findall(r"\w+", caption.lower()):
        return "echo"
    content = {word for word in re.findall(r"\w+", caption.lower()) if len(word) > 3}
    return "ok" if len(content & set(words)) >= len(content) / 3 else "something else"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_fifty_rewrites_of_a_real_language_model(tmp_path, capsys):
    config = LocalModel(
        folder=str(language_model(tmp_path / "model")), precision="float32", batch=25
    )
    chat = LocalChat(config, Sampling(temperature=0.7, top_p=0.9, max_tokens=32))
    replies = {}
    chat.ask(questions(50), lambda question, reply: replies.__setitem__(question.item, reply))
    found = [(CAPTIONS[int(item) % len(CAPTIONS)], reply) for item, reply in replies.items()]
    shares = Counter(status(caption, reply) for caption, reply in found)
    with capsys.disabled():
        print(f"\n50 rewrites: {dict(shares.most_common())}")
        for caption, reply in found[:5]:
            print(f"  {caption} -> {reply.text}")
    assert shares.total() == 50
    assert shares["ok"] >= 25
    assert len({reply.text for reply in replies.values()}) >= 40
