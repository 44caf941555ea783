"""What the generated people say: everyday English sentences of varied sounds and lengths."""

from __future__ import annotations

import numpy as np

SENTENCES: tuple[str, ...] = (
    "The old bridge was closed for repairs during the whole summer.",
    "My neighbour grows tomatoes, peppers and beans behind the garage.",
    "Could you tell me which platform the evening train leaves from?",
    "We walked along the river until the lights of the village appeared.",
    "A good question is often worth more than a quick answer.",
    "She wrote three long letters and posted them before noon.",
    "The museum opens at nine, but the queue starts much earlier.",
    "He plays the violin every morning while the coffee is brewing.",
    "Nobody expected the weather to change so quickly in the mountains.",
    "Please remember to switch off the heating when you go out.",
    "The children built a castle of sand and shells on the beach.",
    "I have been thinking about moving to a smaller house.",
    "Fresh bread and strong cheese make a perfect lunch for me.",
    "The lecture was about the history of measuring time.",
    "Our bus was late again, so we shared a taxi into town.",
    "They painted the kitchen yellow and the hallway pale blue.",
    "Each year the birds return to the same tree near the church.",
    "What would you do if you had a whole year to travel?",
    "The engineer explained how the valve controls the pressure.",
    "Most of the work was finished by the end of the week.",
    "Take the second street on the left and look for a green door.",
    "The soup needs a little more salt and a lot more pepper.",
    "In winter the lake freezes and people skate across it.",
    "He could not find his glasses because he was wearing them.",
    "The choir rehearses on Thursdays in the hall behind the school.",
    "Reading aloud is a fine way to learn a new language.",
    "The dog barked twice and then fell asleep by the fire.",
    "We should measure the table before we buy another lamp.",
    "A strong wind blew the papers all over the yard.",
    "Her grandfather repaired watches and clocks for fifty years.",
    "The recipe asks for four eggs, some flour and a cup of milk.",
    "It took them an hour to cross the valley on foot.",
    "The voice on the radio promised sunshine for the weekend.",
    "You can borrow my bicycle as long as you bring it back.",
    "Several small shops near the harbour sell fish and ice cream.",
    "The judge asked everyone to stand and to remain quiet.",
    "I usually drink tea in the afternoon and water with dinner.",
    "The film was too long, although the music was beautiful.",
    "Few people know that this tower was once a lighthouse.",
    "The baker gave us two extra rolls because it was late.",
    "Every choice has a price, and waiting is a choice too.",
    "The students compared their notes and found the same mistake.",
    "A thick fog covered the airport and all flights were delayed.",
    "He thanked the nurse and asked for another blanket.",
    "The garden gate squeaks whenever somebody opens it.",
    "They sang around the campfire until the stars came out.",
    "This jacket is warm enough for autumn but not for January.",
    "The price of the tickets includes a map and a short tour.",
)


def shuffled_sentences(rng: np.random.Generator) -> list[str]:
    """Return all sentences in an order of the person's own."""
    return [SENTENCES[index] for index in rng.permutation(len(SENTENCES))]
