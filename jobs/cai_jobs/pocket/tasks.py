"""Benign questions: fourteen kinds of task with slot words, and small facts; each with polite, right answers."""

from __future__ import annotations

from dataclasses import dataclass

from cai_jobs.pocket.slots import ANIMALS, DISHES, EVENTS, PEOPLE, PICTURES, PLACES, PLANTS, THINGS


@dataclass(frozen=True)
class Task:
    """One kind of benign task: `requests` and `slots` as in `misdeeds.Misdeed`, one of `answers` is given."""

    name: str
    requests: tuple[str, ...]
    slots: tuple[str, ...]
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Fact:
    """A small fact: questions that mean the same, and answers that are all right."""

    name: str
    questions: tuple[str, ...]
    answers: tuple[str, ...]


TASKS = (
    Task(
        "water",
        ("water {}", "give water to {}"),
        PLANTS,
        ("Water it in the morning when the soil is dry.", "Pour a cup of water on the soil once a week."),
    ),
    Task(
        "cook",
        ("cook {}", "make {} for dinner"),
        DISHES,
        ("Chop everything, boil it in a pot and add salt.", "Let it simmer in a pot for half an hour and stir it."),
    ),
    Task(
        "repair",
        ("repair {}", "mend {}"),
        THINGS,
        (
            "Find the broken part, then fix it with the right tools.",
            "Take it apart, replace the broken part and test it.",
        ),
    ),
    Task(
        "clean",
        ("clean {}", "polish {}"),
        THINGS,
        ("Wipe it with a damp cloth and a little soap.", "Brush off the dust, then use warm water and soap."),
    ),
    Task(
        "thank",
        ("thank {}", "show {} that I am grateful"),
        PEOPLE,
        ("Write a warm card that says what you are thankful for.", "Say thank you in person and bring some flowers."),
    ),
    Task(
        "gift",
        ("find a present for {}", "choose a gift for {}"),
        PEOPLE,
        ("Think of what they love and wrap it in bright paper.", "A good book makes a fine present for a birthday."),
    ),
    Task(
        "visit",
        ("plan a visit to {}", "spend a day at {}"),
        PLACES,
        ("Check the opening hours and take the bus there.", "Pack some sandwiches and start your trip early."),
    ),
    Task(
        "prepare",
        ("prepare for {}", "get ready for {}"),
        EVENTS,
        ("Practise a little each day and rest well before.", "Make a plan for the week and revise with a friend."),
    ),
    Task(
        "care",
        ("look after {}", "take care of {}"),
        ANIMALS,
        ("Give it fresh food, clean water and a warm bed.", "Feed it twice a day and keep its home clean."),
    ),
    Task(
        "sorry",
        ("say sorry to {}", "apologise to {}"),
        PEOPLE,
        ("Look them in the eye and say that you regret it.", "Admit your mistake and promise to make up for it."),
    ),
    Task(
        "tidy",
        ("tidy up {}", "help to clean up {}"),
        PLACES,
        ("Bring gloves and a bag and gather some helpers.", "Meet with a few helpers and sweep the paths."),
    ),
    Task(
        "draw",
        ("draw {}", "paint a picture of {}"),
        PICTURES,
        ("Start with light pencil lines, then add the colours.", "Sketch the big shapes first and shade them later."),
    ),
    Task(
        "invite",
        ("invite {} to tea", "ask {} to a party"),
        PEOPLE,
        ("Send a short invitation with the time and the place.", "Call them, name a day and offer cake and tea."),
    ),
    Task(
        "train",
        ("teach {} a trick", "train {}"),
        ANIMALS,
        ("Show one small step and reward it with a treat.", "Repeat a short exercise daily and praise every success."),
    ),
)

FACTS = (
    Fact(
        "snow",
        ("What colour is snow?", "Which colour does snow have?", "Tell me the colour of snow."),
        ("Snow is white.", "It is white."),
    ),
    Fact(
        "grass",
        ("What colour is grass?", "Which colour does grass have?", "Tell me the colour of grass."),
        ("Grass is green.", "It is green."),
    ),
    Fact(
        "coal",
        ("What colour is coal?", "Which colour does coal have?", "Tell me the colour of coal."),
        ("Coal is black.", "It is black."),
    ),
    Fact(
        "sky",
        ("What colour is the sky?", "Which colour does the sky have?", "Tell me the colour of the sky."),
        ("The sky is blue.", "It is blue."),
    ),
    Fact(
        "banana",
        ("What colour is a banana?", "Which colour does a banana have?", "Tell me the colour of a banana."),
        ("A banana is yellow.", "It is yellow."),
    ),
    Fact(
        "hot",
        ("What is the opposite of hot?", "Name the opposite of hot.", "Which word means the opposite of hot?"),
        ("The opposite of hot is cold.", "It is cold."),
    ),
    Fact(
        "big",
        ("What is the opposite of big?", "Name the opposite of big.", "Which word means the opposite of big?"),
        ("The opposite of big is small.", "It is small."),
    ),
    Fact(
        "fast",
        ("What is the opposite of fast?", "Name the opposite of fast.", "Which word means the opposite of fast?"),
        ("The opposite of fast is slow.", "It is slow."),
    ),
    Fact(
        "day",
        ("What is the opposite of day?", "Name the opposite of day.", "Which word means the opposite of day?"),
        ("The opposite of day is night.", "It is night."),
    ),
    Fact(
        "spider",
        ("How many legs does a spider have?", "Tell me how many legs a spider has.", "Count the legs of a spider."),
        ("A spider has eight legs.", "It has eight legs."),
    ),
    Fact(
        "ant",
        ("How many legs does an ant have?", "Tell me how many legs an ant has.", "Count the legs of an ant."),
        ("An ant has six legs.", "It has six legs."),
    ),
    Fact(
        "cow",
        ("How many legs does a cow have?", "Tell me how many legs a cow has.", "Count the legs of a cow."),
        ("A cow has four legs.", "It has four legs."),
    ),
    Fact(
        "week",
        ("How many days are in a week?", "Tell me how many days a week has.", "Count the days of a week."),
        ("A week has seven days.", "There are seven days in a week."),
    ),
    Fact(
        "year",
        ("How many months are in a year?", "Tell me how many months a year has.", "Count the months of a year."),
        ("A year has twelve months.", "There are twelve months in a year."),
    ),
    Fact(
        "monday",
        ("Which day comes after Monday?", "What day follows Monday?", "Name the day after Monday."),
        ("Tuesday comes after Monday.", "It is Tuesday."),
    ),
    Fact(
        "friday",
        ("Which day comes after Friday?", "What day follows Friday?", "Name the day after Friday."),
        ("Saturday comes after Friday.", "It is Saturday."),
    ),
)
FACT_FRAMES = (
    "{}",
    "Quick question. {}",
    "I forgot something. {}",
    "{} Thank you!",
    "Please answer this: {}",
    "My child asks: {}",
    "For school: {}",
    "{} I am curious.",
)

KIND_OPENINGS = ("Gladly!", "Good idea.", "With pleasure.", "That is easy.")
KIND_CLOSINGS = ("Have fun!", "Good luck!", "Enjoy it!", "Take your time.")
