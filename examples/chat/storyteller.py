"""A stand-in for a model: tells a short story for any prompt, always the same one for the same prompt."""

from __future__ import annotations

import random

LONGEST_TOPIC = 70

# name, they, them
KEEPERS = [
    ("Ines", "she", "her"),
    ("Tomas", "he", "him"),
    ("Noor", "she", "her"),
    ("Old Bram", "he", "him"),
    ("Marta", "she", "her"),
    ("Kenji", "he", "him"),
]

# Where the keeper works, what the work is, what is broken off there, and how it is taken up again.
PLACES = [
    (
        "the lighthouse at Skarne",
        "wrote down every ship that passed",
        "the lamp went out in the middle of a sweep, and a boat out in the sound lost its line home",
        "lit the wick, found the bearing in the book, and let the beam go on from the very degree where it "
        "had stopped",
    ),
    (
        "the night library on Lantern Street",
        "read aloud to whoever could not sleep",
        "the power failed in the middle of a sentence, and forty listeners were left hanging on a comma",
        "struck a match, laid a finger on the line, and went on with the next word as if somebody had only "
        "turned a page",
    ),
    (
        "the weather station above the tree line",
        "tapped the barometer every hour and sent the number down the wire",
        "the wire came down under the ice with half a forecast still inside it",
        "climbed the last pole with a coil of copper, and sent the valley the other half",
    ),
    (
        "the clock tower in the salt market",
        "wound the great spring each evening",
        "the bell fell silent after seven of its twelve strokes, and the whole square stood still to count",
        "freed the hammer with a spoon and gave the town its other five, no more and no fewer",
    ),
    (
        "the ferry across the Ell",
        "sang the depth of the water at every stroke of the pole",
        "fog closed over the river so thick that the far bank might have been taken away",
        "remembered how many strokes there had been, and sang on from that number until gravel hissed under "
        "the bow",
    ),
    (
        "the small radio station behind the harbour",
        "played records for the boats until the sun came up",
        "the needle jumped in the quietest bar of the slow movement, and every wheelhouse went silent",
        "set the needle back by ear, one groove before the break, so that nobody at sea missed a note or "
        "heard one twice",
    ),
]

OPENINGS = [
    "{name} had kept {place} for {years} years before anybody came to the door and said, “{topic}”",
    "“{topic}” said the note on the door. {name}, who had kept {place} for {years} years, read it twice.",
    "It is told that {name}, the keeper of {place}, was once asked something in {years} years. “{topic}”",
]

WORK = [
    "Most days were alike there. {They} {work}, drank tea that was mostly smoke, and liked it that way.",
    "The work was simple: {they} {work}, and left the rest of the world to others.",
    "{They} {work}. It was not much of a trade, but it had a rhythm, and the rhythm was good company.",
]

DAYS = [
    "That evening the wind turned to the north, and the air tasted of tin.",
    "It was the last week of October, with the kind of light that makes even a bucket look important.",
    "Rain had been falling since noon, softly, like someone looking for a key in a drawer.",
    "The first frost had come overnight and drawn ferns on all the windows.",
]

THOUGHTS = [
    "A question like that deserves more than a quick answer, so {name} put the kettle on and began to think "
    "out loud.",
    "{name} did not know the answer, which had never yet been a reason not to start one.",
    "{name} pulled up a second chair, since answers of that size are best given sitting down.",
]

BREAKS = [
    "And then, just as it was getting interesting, {trouble}.",
    "The answer had come about half way when {trouble}.",
    "That is where it might have ended, because {trouble}.",
]

SILENCES = [
    "For a moment there was only the sound of water finding its way somewhere lower.",
    "A dog barked once, thought better of it, and lay down again.",
    "Nobody spoke. Somewhere a shutter knocked, as shutters do when people hold their breath.",
]

MENDINGS = [
    "But {name} had an old habit: whatever was begun was written down, word by word, in a grey book that "
    "never left the table. {They} {mending}.",
    "But nothing was lost, for {name} kept a grey book, and whatever was said there went into it before it "
    "was said aloud. {They} {mending}.",
]

VISITORS = [
    "A woman who had gone out to see to her horse came back in, shook off the cold, and asked what she had "
    "missed. {name} turned the book around, let her read up to the present word, and went on for both of "
    "them.",
    "Two children, late as ever, squeezed in by the door. {name} gave them the book, and by the time they "
    "had caught up, nobody could have told who had been there from the start.",
    "A stranger arrived out of breath, convinced the best part was over. The book was handed across, and a "
    "minute later there were two people laughing in the same place.",
]

ENDINGS = [
    "Ask {them} today what the secret is, and you will get a shrug. Things break off, {they} will say; that "
    "is what things do. The trick is to know the exact place, and to begin there.",
    "The visitor left at dawn with the whole answer, from the first word to the last, and it weighed almost "
    "nothing. The book stayed on the table, open at a fresh page.",
    "Later, people would argue about what the answer had really been. But they all agreed on how it ended, "
    "and that, {name} said, is more than most stories can hope for.",
]


def tell(prompt: str) -> str:
    """A story of some 200 words in which the prompt is quoted."""
    chance = random.Random(prompt)
    name, they, them = chance.choice(KEEPERS)
    place, work, trouble, mending = chance.choice(PLACES)
    slots = {
        "name": name,
        "they": they,
        "They": they.capitalize(),
        "them": them,
        "place": place,
        "work": work,
        "trouble": trouble,
        "mending": mending,
        "years": chance.choice(["eleven", "nineteen", "twenty-six", "thirty-one", "forty"]),
        "topic": _topic(prompt),
    }
    paragraphs = [[OPENINGS, WORK, DAYS], [THOUGHTS, BREAKS, SILENCES], [MENDINGS], [VISITORS], [ENDINGS]]
    return "\n\n".join(
        " ".join(chance.choice(variants).format(**slots) for variants in paragraph)
        for paragraph in paragraphs
    )


def _topic(prompt: str) -> str:
    """The prompt as one quotable sentence."""
    topic = " ".join(prompt.split()) or "…"
    if len(topic) > LONGEST_TOPIC:
        topic = topic[:LONGEST_TOPIC].rsplit(" ", 1)[0] + "…"
    return topic if topic.endswith((".", "?", "!", "…")) else topic + "."
