"""A real language model rewrites captions. Oracle: the captions themselves, and what a rewrite has to be."""

import re
from collections import Counter

import pytest
from made.language_model import language_model

from neuclip.foundation.progress import silent
from neuclip.generation.answers import Asked, answer_all
from neuclip.generation.checks import Status
from neuclip.generation.config import LocalModel, Rewrite, Sampling
from neuclip.generation.journal import Journal
from neuclip.generation.local_model import LocalChat
from neuclip.generation.spending import Spending

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


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_fifty_rewrites_of_a_real_language_model(tmp_path, capsys):
    """By the stage's own questions and checks; what is ok shares words with its caption, which no check looks at."""
    config = LocalModel(
        folder=str(language_model(tmp_path / "model")), precision="float32", batch=25
    )
    step = Rewrite(model="any", sampling=Sampling(temperature=0.7, top_p=0.9, max_tokens=48))
    asked = [
        Asked(f"{n:032x}", k, {"alt": text}) for n, text in enumerate(CAPTIONS) for k in range(2)
    ]
    with Journal(str(tmp_path / "journal")) as journal:
        answers = answer_all(
            step.model_copy(update={"max_bad": 1.0}),
            asked,
            backend=lambda: LocalChat(config, step.sampling),
            journal=journal,
            spending=Spending(None, None, most_tokens=48),
            progress=silent,
        )
    shares = Counter(str(one.status) for one in answers.judged)
    good = [
        (one.texts["alt"], judged.text)
        for one, judged in zip(asked, answers.judged, strict=True)
        if judged.status is Status.OK
    ]
    with capsys.disabled():
        print(f"\n50 rewrites: {dict(shares.most_common())}")
        for caption, text in good[:5]:
            print(f"  {caption} -> {text}")
    assert shares.total() == 50
    assert shares["ok"] >= 25
    assert sum(bool(content(caption) & content(text)) for caption, text in good) >= len(good) * 0.9


def content(text):
    return {word for word in re.findall(r"\w+", text.lower()) if len(word) > 3}
