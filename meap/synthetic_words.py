"""The word lists and sentence templates behind `meap.synthetic`: data only, written for this project.

A template is text with slots in braces; a slot names another list, whose entries may hold slots in turn. A topic gives
seven lists; `rules` adds the plurals, the verb forms and the common lists:

    thing   countable noun with a regular plural; `things` is made from it
    stuff   noun without a plural
    site    where the work is done: "at the {site}"
    worker  who does it, plural in s
    verb    base/past/gerund (`do`, `did`, `doing`), takes a thing as its object; the past is its participle too
    adj     what a thing can be, more or less
    line    whole sentences that belong to this topic only

No number with four digits or more stands here except years before 2030: the values of facts start at 2100 and stay
unique in a text. Words that break the rule "an before a vowel letter" (one, useful, hour) never follow an article.
"""

from __future__ import annotations

__all__ = ["rules"]


def _split(words: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in words.split(","))


def _plural(noun: str) -> str:
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + ("es" if noun.endswith(("s", "x", "ch", "sh")) else "s")


FIRST_NAMES = _split(
    "Ada, Agnes, Alma, Anders, Anselm, Arthur, Beatrix, Benedict, Bridget, Caleb, Cecily, Clement, Clara, "
    "Conrad, Cora, Daniel, Dora, Edith, Edmund, Elias, Elsa, Emil, Esther, Felix, Flora, Frieda, Gideon, "
    "Greta, Harriet, Hector, Helena, Hugo, Ida, Imogen, Ingrid, Ivor, Jasper, Joan, Josef, Judith, Karin, "
    "Laurence, Leah, Leopold, Lydia, Mabel, Magnus, Margaret, Martin, Matilda, Maurice, Miriam, Nadia, "
    "Nathan, Nora, Olive, Oscar, Otto, Pauline, Percy, Petra, Philippa, Quentin, Rachel, Rosa, Rufus, "
    "Ruth, Sabine, Silas, Stella, Sybil, Tamsin, Thea, Theodore, Tobias, Una, Ursula, Victor, Wilfred, "
    "Winifred"
)
NAME_STARTS = _split(
    "Al, Ar, Ash, Bar, Bel, Birk, Black, Bran, Brea, Brom, Cal, Car, Chal, Chad, Clay, Col, Cor, Dal, "
    "Dar, Den, Dray, Dun, Elm, Fair, Fal, Fen, Gar, Glen, Gold, Gor, Hal, Har, Hart, Haw, Hazel, Hol, "
    "Ing, Kel, Ken, Kirk, Lang, Lin, Lock, Long, Mar, Mel, Mer, Mil, Mor, Nor, Oak, Or, Pem, Pen, Quill, "
    "Rad, Raven, Red, Ros, Sal, Sel, Sher, Stan, Stir, Tam, Thorn, Til, Tor, Ul, Van, Wal, War, West, "
    "Whit, Wil, Win, Wood, Yar"
)
SURNAME_ENDS = _split(
    "bert, bridge, by, combe, cott, den, der, dale, ford, gate, grave, ham, hurst, land, lake, ler, ley, "
    "low, man, mer, more, ner, quist, ridge, ridan, rick, sen, shaw, son, stead, stone, ton, vane, ward, "
    "wick, win, worth, wright"
)
TOWN_ENDS = _split(
    "beck, borough, bourne, bury, chester, cliff, cross, down, ferry, field, fleet, fold, head, haven, "
    "holm, market, mere, minster, moor, mouth, ness, over, port, reach, sand, stow, thorpe, vale, well, "
    "wold"
)

FACT_KINDS = _split(
    "archive, bakery, barn, boathouse, brewery, bridge house, chapel, clock tower, cottage, depot, "
    "distillery, ferry, foundry, gallery, granary, greenhouse, inn, kiln, laboratory, library, "
    "lighthouse, mill, museum, nursery, observatory, orchard, pavilion, press, printing house, quarry, "
    "railway station, sawmill, school, shipyard, signal box, smithy, storehouse, theatre, tower, vault, "
    "warehouse, weaving shed, windmill, workshop"
)
NUMBER_ATTRIBUTES = _split(
    "access code, archive number, catalogue number, delivery code, deposit number, door code, file "
    "number, key number, ledger number, licence number, locker number, order number, permit number, "
    "reference number, registration number, safe combination, serial number, telephone number, ticket "
    "number, vault number"
)
PAIR_ATTRIBUTES = _split("call sign, code name, password, watchword, emblem, signal phrase")
PAIR_COLOURS = _split(
    "amber, azure, black, bronze, copper, coral, cream, crimson, ebony, emerald, golden, green, grey, "
    "indigo, ivory, jade, lilac, maroon, olive, orange, pearl, purple, russet, scarlet, silver, teal, "
    "violet, white, yellow"
)
PAIR_ANIMALS = _split(
    "adder, badger, beaver, bison, buzzard, crane, curlew, dolphin, eagle, falcon, ferret, finch, fox, "
    "hare, hawk, hedgehog, heron, ibex, jackdaw, kestrel, lark, lynx, magpie, marten, mole, otter, owl, "
    "pelican, plover, raven, salmon, seal, stag, starling, stoat, swan, swift, trout, vole, weasel, wolf, "
    "wren"
)

RECORD_FIELDS: dict[str, tuple[str, ...]] = {
    "tree": _split(
        "alder, ash, aspen, beech, birch, cedar, cherry, chestnut, cypress, elm, fir, hawthorn, hazel, holly, "
        "hornbeam, juniper, larch, laurel, lime, maple, oak, pine, plane, poplar, rowan, spruce, sycamore, walnut, "
        "willow, yew"
    ),
    "bird": _split(
        "bittern, bullfinch, bunting, buzzard, crow, cuckoo, curlew, dipper, dove, eagle, finch, gannet, goose, "
        "grouse, gull, heron, jackdaw, kestrel, lapwing, lark, magpie, martin, owl, pigeon, plover, raven, robin, "
        "rook, sparrow, swallow"
    ),
    "fish": _split(
        "anchovy, barbel, bass, bream, brill, carp, chub, cod, dace, eel, flounder, grayling, haddock, hake, halibut, "
        "herring, mackerel, mullet, perch, pike, plaice, pollock, roach, salmon, sardine, sprat, sturgeon, tench, "
        "trout, turbot"
    ),
    "cloth": _split(
        "baize, brocade, calico, cambric, canvas, cashmere, chintz, corduroy, cotton, damask, denim, felt, flannel, "
        "fustian, gauze, gingham, hessian, lace, linen, muslin, poplin, sateen, satin, serge, silk, tweed, twill, "
        "velvet, wool, worsted"
    ),
    "stone": _split(
        "agate, amethyst, basalt, beryl, chalk, chert, diamond, dolerite, flint, gabbro, garnet, gneiss, granite, "
        "gypsum, jasper, limestone, marble, obsidian, onyx, opal, pumice, quartz, ruby, sandstone, sapphire, schist, "
        "shale, slate, topaz, zircon"
    ),
    "metal": _split(
        "aluminium, antimony, arsenic, bismuth, brass, bronze, cadmium, chromium, cobalt, copper, gallium, gold, iron, "
        "lead, lithium, magnesium, mercury, nickel, osmium, pewter, platinum, potassium, silver, sodium, steel, tin, "
        "titanium, tungsten, uranium, zinc"
    ),
    "fruit": _split(
        "apple, apricot, banana, bilberry, blackberry, cranberry, currant, damson, date, elderberry, fig, gooseberry, "
        "grape, lemon, loganberry, mango, medlar, melon, mulberry, nectarine, orange, papaya, peach, pear, plum, "
        "pomegranate, quince, raspberry, strawberry, tangerine"
    ),
    "dance": _split(
        "bolero, bourree, cancan, chaconne, conga, courante, fandango, farandole, foxtrot, gallop, gavotte, gigue, "
        "habanera, hornpipe, jig, jive, mambo, mazurka, minuet, pavane, polka, polonaise, quadrille, quickstep, reel, "
        "rumba, samba, sarabande, tango, waltz"
    ),
}  # the values of one field are no other field's: who looks for a bird finds one

RECAP_LEADS = (
    "To recall:",
    "To sum up:",
    "For the record:",
    "In short:",
    "As noted above:",
    "Once more, for reference:",
)

STATEMENTS = (
    "The {attribute} of the {subject} is {value}.",
    "At the {subject}, the {attribute} is {value}.",
    "For the {subject} the {attribute} was given as {value}.",
    "Visitors to the {subject} are told that its {attribute} is {value}.",
    "The owner of the {subject} wrote down the {attribute}, which is {value}.",
    "According to the notice, the {attribute} of the {subject} is {value}.",
    "A card on the wall showed {value}, the {attribute} of the {subject}.",
)

COMMON: dict[str, tuple[str, ...]] = {
    "day": _split("Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday"),
    "month": _split("January, February, March, April, May, June, July, August, September, October, November, December"),
    "season": _split("spring, summer, autumn, winter"),
    "year": tuple(str(year) for year in range(1790, 2025)),
    "date": ("{dom} {month} {year}", "{dom} {month}"),
    "when": ("{month} {year}", "the {season} of {year}", "{year}", "{month}"),
    "dom": tuple(str(day) for day in range(1, 29)),
    "n": tuple(str(number) for number in range(11, 100)),
    "hundreds": tuple(str(number) for number in range(110, 990, 10)),
    "few": _split("two, three, four, five, six, seven, eight, nine, ten, twelve"),
    "ordinal": _split("first, second, third, fourth, fifth, sixth"),
    "time": (
        *_split(
            "six o'clock, seven o'clock, half past seven, eight o'clock, a quarter to nine, noon, midday, half past two"
        ),
        *_split("four o'clock, a quarter past five, sunset, dusk, dawn, first light, midnight"),
    ),
    "span": (
        "{few} days",
        "{few} weeks",
        "{few} months",
        "{few} years",
        "nearly a decade",
        "a long afternoon",
        "most of the {season}",
        "the better part of a year",
        "a whole week",
    ),
    "relative": _split(
        "sister, brother, aunt, uncle, cousin, neighbour, grandfather, grandmother, colleague, daughter, son, friend"
    ),
    "mood": _split(
        "calm, careful, cheerful, cautious, curious, determined, doubtful, eager, grateful, hopeful, "
        "impatient, patient, pleased, practical, proud, puzzled, quiet, relieved, sceptical, stubborn, "
        "surprised, tired, worried, thoughtful, generous, polite"
    ),
    "state": _split(
        "broken, clean, cold, covered, crowded, damp, dark, dry, empty, full, hidden, locked, missing, open, "
        "ready, safe, scattered, shut, stacked, visible, warm, wet, unfinished, exposed, untouched, complete"
    ),
    "quality": _split(
        "better, cheaper, cleaner, easier to find, finer, heavier, lighter, larger, smaller, stronger, worse, warmer, "
        "drier, less common, more expensive, more reliable, more practical"
    ),
    "manner": _split(
        "carefully, slowly, quickly, quietly, gladly, reluctantly, patiently, at once, by hand, in silence, "
        "without complaint, one by one, in good order, with great care, in turn, together, before breakfast, "
        "after dark, again, properly, gently, in haste, by lamplight, according to the old method, as usual, "
        "with some difficulty, almost every day"
    ),
    "degree": _split("very, rather, quite, fairly, unusually, surprisingly, more or less, hardly, equally, especially"),
    "often": _split("often, seldom, always, sometimes, usually, rarely, hardly ever"),
    "link": (
        "however",
        "therefore",
        "in the end",
        "for that reason",
        "as a result",
        "meanwhile",
        "even so",
        "by contrast",
        "in other words",
        "on the whole",
        "at first",
        "later on",
        "for example",
        "strangely",
        "in practice",
        "after all",
        "of course",
        "fortunately",
        "at any rate",
    ),
    "say": _split(
        "said, wrote, explained, remarked, admitted, replied, recalled, insisted, noted, answered, warned, declared"
    ),
    "thought": _split(
        "believed, knew, noticed, remembered, suspected, feared, hoped, discovered, understood, learned, "
        "agreed, heard, claimed"
    ),
    "source": _split(
        "local newspaper, parish register, annual report, old diary, visitors' book, town chronicle, official "
        "inquiry, printed guide, family letter, daily log, accounts book, weekly bulletin"
    ),
    "reason": (
        "because the {thing} was {state}",
        "because nobody had {did} the {things}",
        "since the {site} was {state}",
        "as the {stuff} had run out",
        "because the {worker}s were {mood}",
        "although the {things} were {adj}",
        "even though the {stuff} was {quality} than expected",
        "before the {thing} could be {did}",
        "while the {worker} waited outside",
        "so that the {things} would be {state} by {time}",
        "once the {things} had been {did}",
        "after {person} had {did} the {thing}",
        "as soon as there was enough {stuff}",
    ),
    "opening": (
        "In {when}",
        "By {time}",
        "On {day} morning",
        "On {day} evening",
        "In the {season}",
        "At {time}",
        "After {span}",
        "For {span}",
        "Near {town}",
        "At the {site}",
        "Behind the {site}",
        "On the road to {town}",
        "Every {day}",
        "In {town}",
        "Not far from the {site}",
        "During the {ordinal} week",
        "Before {month}",
        "Without {stuff}",
    ),
    "who": (
        "{person}",
        "{person}",
        "{person}",
        "{person}",
        "the {worker}",
        "a {worker} from {town}",
        "the {ordinal} {worker}",
        "{person}'s {relative}",
        "the {mood} {worker}",
    ),
    "item": (
        "the {thing}",
        "the {thing}",
        "a {adj} {thing}",
        "the {adj} {thing}",
        "the {things}",
        "{few} {things}",
        "the old {thing}",
        "every {thing} in the {site}",
        "the {thing} and the {thing}",
        "a {thing} made in {town}",
        "the {adj} {things}",
    ),
    "claim": (
        "the {things} were {state}",
        "the {thing} was too {adj}",
        "no {thing} in {town} was {quality}",
        "the {stuff} would last {span}",
        "{person} had already {did} the {things}",
        "a {adj} {thing} is {often} worth the price",
        "the {site} had been {state} for {span}",
        "there were {n} {things} at the {site}",
        "the {worker}s of {town} had {often} {did} {item}",
        "it was time to {do} {item}",
    ),
    "sentence": (
        "{opening}, {who} {did} {item}.",
        "{opening}, {who} {did} {item} and {did} {item}.",
        "{who} {did} {item} {manner}.",
        "{who} {did} {item} {reason}.",
        "{who} {did} {item} {manner}, {reason}.",
        "{opening}, {who} {thought} that {claim}.",
        "{who} {thought} that {claim}, and so {did} {item}.",
        "{link}, {claim}.",
        "{link}, {who} {did} {item} {reason}.",
        "{link}, {claim}, and {claim}.",
        "The {thing} was {degree} {adj}, but {who} {did} it {manner}.",
        "The {thing} was {adj} and {adj}, {reason}.",
        "It took {span} to {do} {item}.",
        "It took {who} {span} to {do} {item}, {reason}.",
        "There were {n} {things} at the {site}, and {few} of them were {state}.",
        "Of the {hundreds} {things} that {who} {did}, only {n} came from {town}.",
        "The {site} in {town} was built in {year} and was {often} {state} in {month}.",
        "{person} came from {town} and had worked as a {worker} for {span}.",
        "{person} was a {mood} {worker} who {often} {did} {item} {manner}.",
        "No {worker} could {do} {item} without {stuff}.",
        "{doing} {item} is more difficult than {doing} {item}.",
        "{doing} {item} was {degree} slow work, {reason}.",
        "Most {worker}s prefer to {do} {item} in the {season}, when the {stuff} is {quality}.",
        "The {source} of {date} says that {claim}.",
        "According to the {source}, {who} {did} {item} in {year}.",
        "In {year} the price of a {thing} rose to {n} crowns, {reason}.",
        "About {n} per cent of the {things} in {town} were {did} in {year}.",
        '"{claim}," {say} {person}.',
        '"{claim}, and {claim}," {say} {person}.',
        '{person} {say}: "Never {do} a {adj} {thing} in {month}."',
        '"We {did} the {things} {manner}," {say} the {worker}, "and {claim}."',
        '"Why did nobody {do} the {thing}?" asked {person}.',
        "{who} asked whether {claim}.",
        "What mattered most was the {stuff}; the {thing} could wait until {month}.",
        "Some {worker}s {did} {item}, others {did} {item}, and a few did nothing at all.",
        "Neither the {thing} nor the {thing} was {state} by {time}.",
        "If the {thing} is {adj}, {do} it {manner}; if it is {adj}, leave it until {day}.",
        "First {do} the {things}, then {do} the {thing}, and always keep some {stuff} at hand.",
        "The road from {town} to {town} passes the {site}, where {who} {did} {item}.",
        "{who} had never seen a {quality} {thing} in {town}.",
        "The {adj} {thing} that {who} {did} in {when} is now in the {site} of {town}.",
        "With more {stuff}, {who} would have {did} {item} by {time}.",
        "A {thing} of this kind can last for {span} if it is {did} {manner}.",
        "{opening}, the {stuff} was {quality} than {who} had hoped.",
        "Nobody in {town} remembers who {did} the {ordinal} {thing}.",
        "{person} and the {worker} met at the {site} at {time} to {do} {item}.",
    ),
}

TOPICS: dict[str, dict[str, tuple[str, ...]]] = {
    "harbours": {
        "thing": _split(
            "anchor, lantern, rope, barrel, crate, net, pulley, buoy, oar, sail, ladder, dinghy, trawler, chain, "
            "hatch, mast, rudder, winch, gangway, bollard, compass, cable, tarpaulin, fender"
        ),
        "stuff": _split("tar, salt, canvas, timber, coal, diesel, paint, cordage, ballast, seaweed, fog, ice"),
        "site": _split(
            "quay, boatyard, pier, slipway, customs house, breakwater, fish market, dry dock, jetty, chandlery, wharf"
        ),
        "worker": _split(
            "sailor, pilot, docker, skipper, rigger, harbour master, shipwright, rope maker, deckhand, ferry "
            "captain, diver"
        ),
        "verb": _split(
            "repair/repaired/repairing, inspect/inspected/inspecting, paint/painted/painting, "
            "secure/secured/securing, unload/unloaded/unloading, lower/lowered/lowering, mark/marked/marking, "
            "scrub/scrubbed/scrubbing, borrow/borrowed/borrowing, replace/replaced/replacing, "
            "salvage/salvaged/salvaging, tow/towed/towing"
        ),
        "adj": _split(
            "heavy, rusty, weathered, sturdy, narrow, leaking, slippery, broad, tarred, iron, sunken, seaworthy, "
            "rotten, blue"
        ),
        "line": (
            "The tide turned at {time}, and {few} boats left the harbour for {town}.",
            "A {adj} ship from {town} lay off the breakwater with {hundreds} sacks of grain on board.",
            "High water stood {few} feet above the mark of {year}, and the quay was flooded.",
            "The pilot boat goes out in any wind, although the entrance is only {n} yards wide.",
            "Gulls followed the fishing fleet as far as the outer buoy.",
            "In {year} the harbour of {town} handled {hundreds} ships, most of them under sail.",
            "A dredger works {span} every year to keep the channel deep enough for the ferry.",
            "The fog bell rang {few} times, and {person} steered towards the sound.",
        ),
    },
    "cooking": {
        "thing": _split(
            "soup, pie, cake, stew, omelette, dumpling, onion, pudding, tart, roast, pancake, sauce, broth, "
            "biscuit, sausage, chicken, trout, pumpkin, carrot, apple, turnip, leek, pastry, custard"
        ),
        "stuff": _split(
            "flour, butter, salt, pepper, sugar, vinegar, cream, garlic, parsley, honey, yeast, olive oil, "
            "mustard, thyme"
        ),
        "site": _split(
            "kitchen, bakery, inn, dining room, pantry, canteen, cookery school, tavern, cellar, tea room, smokehouse"
        ),
        "worker": _split(
            "cook, baker, waiter, butcher, innkeeper, pastry chef, miller, gardener, housekeeper, apprentice, guest"
        ),
        "verb": _split(
            "prepare/prepared/preparing, serve/served/serving, taste/tasted/tasting, share/shared/sharing, "
            "season/seasoned/seasoning, warm/warmed/warming, order/ordered/ordering, burn/burned/burning, "
            "praise/praised/praising, slice/sliced/slicing, salt/salted/salting, cool/cooled/cooling"
        ),
        "adj": _split(
            "rich, sweet, bitter, golden, crisp, tender, spicy, plain, fresh, smoked, sour, thick, creamy, "
            "fragrant, stale"
        ),
        "line": (
            "Melt the butter in a wide pan and stir in {few} spoons of flour.",
            "The dough should rest for {few} hours under a damp cloth.",
            "Bake it for {n} minutes, until the crust is {adj} and {adj}.",
            "A pinch of {stuff} and a little {stuff} bring out the taste of the {thing}.",
            "{person} learned the recipe from a {relative}, who cooked in an inn near {town}.",
            "Simmer the {things} slowly, and skim the surface from time to time.",
            "The dish is {often} served with {things}, brown bread and a spoon of {stuff}.",
            "Without {stuff} the sauce turns out {adj}, and no amount of {stuff} will save it.",
        ),
    },
    "weather": {
        "thing": _split(
            "barometer, thermometer, rain gauge, weather map, chart, notebook, kite, balloon, wind vane, "
            "instrument, umbrella, storm cone, telegram, report, shutter, weathercock, log, lamp, flag, window, "
            "mast"
        ),
        "stuff": _split("rain, snow, frost, mist, sleet, hail, sunshine, thunder, drizzle, moisture, wind, dew"),
        "site": _split(
            "weather station, signal station, observatory, airport, town hall, reservoir, coastguard station, "
            "summit hut"
        ),
        "worker": _split(
            "observer, forecaster, shepherd, farmer, volunteer, engineer, coastguard, schoolteacher, pilot, lock keeper"
        ),
        "verb": _split(
            "check/checked/checking, record/recorded/recording, compare/compared/comparing, "
            "adjust/adjusted/adjusting, photograph/photographed/photographing, repair/repaired/repairing, "
            "watch/watched/watching, clean/cleaned/cleaning, test/tested/testing, cover/covered/covering, "
            "study/studied/studying"
        ),
        "adj": _split(
            "damp, dry, frozen, accurate, bright, sheltered, faulty, heavy, sensitive, simple, battered, dented, "
            "dusty, modern"
        ),
        "line": (
            "The wind backed to the north-west during the night and blew at {n} miles an hour.",
            "By {time} the temperature had fallen to {few} degrees below zero.",
            "Rain is expected over {town} on {day}, followed by milder weather and some {stuff}.",
            "The storm of {date} tore the roof off the school and felled {hundreds} trees.",
            "Low cloud hung over the valley until noon, then the sun broke through.",
            "In {month} the station measured {n} millimetres of rain in a single day.",
            "An old saying in {town} holds that {stuff} in {month} brings {stuff} in {month}.",
            "The river rose {few} feet overnight, and the lower bridge was closed.",
        ),
    },
    "crafts": {
        "thing": _split(
            "bowl, basket, chair, quilt, jug, candle, spoon, bench, carpet, plate, tile, saddle, button, blanket, "
            "cabinet, lamp, mirror, picture frame, toy, vase, clock case, wheel, table, cushion"
        ),
        "stuff": _split(
            "clay, oak, leather, wool, wax, linen, glaze, varnish, willow, glue, silk, pewter, felt, brass"
        ),
        "site": _split(
            "workshop, pottery, studio, forge, weaving mill, tannery, guildhall, craft school, sawmill, attic"
        ),
        "worker": _split(
            "potter, weaver, carpenter, turner, saddler, bookbinder, apprentice, carver, glazier, basket maker, tailor"
        ),
        "verb": _split(
            "make/made/making, finish/finished/finishing, polish/polished/polishing, mend/mended/mending, "
            "sketch/sketched/sketching, varnish/varnished/varnishing, decorate/decorated/decorating, "
            "sell/sold/selling, copy/copied/copying, design/designed/designing, sand/sanded/sanding, "
            "measure/measured/measuring"
        ),
        "adj": _split(
            "smooth, rough, light, plain, delicate, narrow, heavy, solid, uneven, ornate, round, elegant, crooked, pale"
        ),
        "line": (
            "The clay must be kneaded for {n} minutes before it goes on the wheel.",
            "A good joint needs neither nails nor {stuff}; it holds because it fits.",
            "The kiln is fired {few} times a year and takes {few} days to cool.",
            "{person} cut the leather along the line and punched {n} holes for the thread.",
            "Dyes were made from onion skins, walnut shells and {stuff}.",
            "An apprentice in {town} served {few} years before making a {thing} alone.",
            "The grain of the wood runs along the length of the {thing}, which makes it {quality}.",
            "Each {thing} carries the maker's mark, a small {adj} star above the date.",
        ),
    },
    "gardens": {
        "thing": _split(
            "rose, hedge, apple tree, pear tree, shrub, bulb, seedling, fern, vine, fig tree, lily, tulip, poppy, "
            "plum tree, willow, peony, holly bush, cabbage, currant bush, sunflower, lavender bush, cherry tree, "
            "oak"
        ),
        "stuff": _split("compost, soil, mulch, water, gravel, moss, seed, straw, shade, manure, bark, sunlight"),
        "site": _split(
            "greenhouse, orchard, kitchen garden, terrace, nursery, park, courtyard, allotment, walled garden, "
            "potting shed"
        ),
        "worker": _split(
            "gardener, botanist, forester, florist, visitor, planter, beekeeper, neighbour, student, head gardener"
        ),
        "verb": _split(
            "plant/planted/planting, water/watered/watering, trim/trimmed/trimming, label/labelled/labelling, "
            "admire/admired/admiring, protect/protected/protecting, cover/covered/covering, "
            "neglect/neglected/neglecting, tend/tended/tending, sketch/sketched/sketching, clear/cleared/clearing"
        ),
        "adj": _split(
            "green, shady, tall, wild, fragrant, tangled, early, late, pale, thorny, sheltered, ripe, young, "
            "neglected, dense"
        ),
        "line": (
            "Sow the seed in {month}, {few} inches apart, and cover it with a thin layer of {stuff}.",
            "The roses bloom from {month} until the first frost.",
            "Slugs had eaten {few} rows of lettuce before anyone noticed.",
            "Bees visit the lavender in the morning and the lime trees after noon.",
            "Cut back the {thing} in {month}, but leave the {adj} shoots alone.",
            "The walled garden at {town} was laid out in {year} by {person}.",
            "A layer of {stuff} keeps the roots cool and holds the {stuff} in the ground.",
            "The pear trees against the south wall bore {hundreds} pounds of fruit in {year}.",
        ),
    },
    "history": {
        "thing": _split(
            "charter, map, letter, coin, seal, portrait, ledger, manuscript, sword, tomb, treaty, chronicle, "
            "deed, banner, inscription, document, medal, statue, gate, wall, chapel, monument, fragment, "
            "inventory"
        ),
        "stuff": _split(
            "parchment, ink, evidence, correspondence, silver, testimony, gunpowder, grain, marble, research, tribute"
        ),
        "site": _split(
            "castle, abbey, archive, museum, town hall, treasury, cathedral, courthouse, manor, record office, crypt"
        ),
        "worker": _split(
            "historian, scribe, archivist, bishop, merchant, soldier, surveyor, curator, scholar, mayor, clerk, "
            "governor"
        ),
        "verb": _split(
            "study/studied/studying, copy/copied/copying, catalogue/catalogued/cataloguing, "
            "restore/restored/restoring, describe/described/describing, examine/examined/examining, "
            "donate/donated/donating, discover/discovered/discovering, preserve/preserved/preserving, "
            "display/displayed/displaying, photograph/photographed/photographing"
        ),
        "adj": _split(
            "ancient, faded, ornate, heavy, damaged, fragile, old, brittle, famous, costly, obscure, worn, plain, rare"
        ),
        "line": (
            "The town received its charter in {year}, when it had barely {hundreds} inhabitants.",
            "The siege lasted {span}, and the garrison surrendered for want of {stuff}.",
            "In {year} a fire destroyed {hundreds} houses and half of the {site}.",
            "Historians disagree about the date, but {year} is the most likely answer.",
            "The peace signed at {town} in {year} ended {few} years of war.",
            "Trade with {town} declined after the new road was opened in {year}.",
            "A census of {year} lists {hundreds} households, {few} mills and a single {site}.",
            "The bishop ordered that every {thing} in the diocese be {did} by {month}.",
        ),
    },
    "machines": {
        "thing": _split(
            "engine, pump, gearbox, valve, boiler, turbine, bearing, belt, crane, lathe, generator, piston, "
            "spring, lever, motor, gauge, drill, switch, press, loom, flywheel, filter, pipe, conveyor"
        ),
        "stuff": _split(
            "oil, steam, grease, steel, copper, pressure, fuel, electricity, cooling water, rubber, solder, friction"
        ),
        "site": _split(
            "factory, engine house, power station, test hall, machine shop, depot, foundry, control room, "
            "pumping station"
        ),
        "worker": _split(
            "engineer, mechanic, fitter, operator, inventor, welder, foreman, stoker, electrician, technician, "
            "inspector"
        ),
        "verb": _split(
            "test/tested/testing, repair/repaired/repairing, replace/replaced/replacing, oil/oiled/oiling, "
            "install/installed/installing, dismantle/dismantled/dismantling, inspect/inspected/inspecting, "
            "start/started/starting, improve/improved/improving, connect/connected/connecting, "
            "weld/welded/welding, stop/stopped/stopping"
        ),
        "adj": _split(
            "noisy, reliable, worn, powerful, cracked, efficient, greasy, hot, bulky, compact, faulty, modern, stiff"
        ),
        "line": (
            "The engine ran at {hundreds} revolutions a minute for {span} without a fault.",
            "A worn bearing makes a low hum that grows louder as the shaft turns faster.",
            "The patent of {year} describes a {thing} driven by {stuff} alone.",
            "Close the valve before the pressure reaches {n} pounds to the square inch.",
            "The new {thing} did the work of {few} men and used half as much {stuff}.",
            "Every bolt is tightened twice, first by hand and then with a long wrench.",
            "When the belt slipped, the whole line stopped for {n} minutes.",
            "The factory in {town} turned out {hundreds} {things} a month until {year}.",
        ),
    },
    "travel": {
        "thing": _split(
            "suitcase, ticket, map, timetable, backpack, tent, bicycle, passport, guidebook, camera, letter, "
            "carriage, coat, lamp, souvenir, postcard, boat, hat, hammock, blanket, water bottle, sketch map, "
            "suit, parcel"
        ),
        "stuff": _split("luggage, bread, money, petrol, sunshine, dust, snow, time, coffee, company, shade, patience"),
        "site": _split(
            "station, hotel, customs post, hostel, mountain hut, ferry terminal, campsite, airport, village square, "
            "post office"
        ),
        "worker": _split(
            "traveller, guide, driver, porter, conductor, hiker, cyclist, tourist, innkeeper, ticket clerk, pilgrim"
        ),
        "verb": _split(
            "find/found/finding, lose/lost/losing, describe/described/describing, "
            "photograph/photographed/photographing, carry/carried/carrying, pack/packed/packing, "
            "check/checked/checking, buy/bought/buying, miss/missed/missing, recommend/recommended/recommending, "
            "share/shared/sharing, leave/left/leaving"
        ),
        "adj": _split(
            "battered, borrowed, light, sturdy, cheap, comfortable, foreign, spare, expensive, waterproof, "
            "folded, worn, famous, bulky"
        ),
        "line": (
            "The train to {town} leaves at {time} and takes {few} hours.",
            "We crossed the pass on {date} and slept at the {site} on the far side.",
            "From {town} the road climbs for {n} miles through forest and open moor.",
            "A room with a view of the sea costs {n} crowns a night in {month}.",
            "The bus was {n} minutes late, and nobody at the {site} seemed to mind.",
            "Take the {ordinal} turning after the bridge and follow the river to {town}.",
            "The guide spoke {few} languages and knew every inn between {town} and {town}.",
            "It is best to start before {time}, when the path is empty and the air is cool.",
        ),
    },
    "markets": {
        "thing": _split(
            "stall, cheese, basket, scarf, contract, sack, receipt, shop, price list, awning, coin, horse, goose, "
            "loan, bill, parcel, scale, cart, sample, bargain, invoice, counter, shawl, bottle"
        ),
        "stuff": _split("credit, cash, wheat, cloth, tea, spice, wine, profit, trade, copper, cotton, demand"),
        "site": _split(
            "market square, exchange, warehouse, bank, auction room, counting house, fairground, arcade, corn "
            "hall, tollhouse"
        ),
        "worker": _split(
            "trader, farmer, banker, grocer, clerk, auctioneer, buyer, pedlar, customer, accountant, toll collector"
        ),
        "verb": _split(
            "sell/sold/selling, buy/bought/buying, weigh/weighed/weighing, count/counted/counting, "
            "price/priced/pricing, inspect/inspected/inspecting, wrap/wrapped/wrapping, refuse/refused/refusing, "
            "deliver/delivered/delivering, accept/accepted/accepting, examine/examined/examining"
        ),
        "adj": _split(
            "cheap, fresh, costly, tempting, ripe, fine, second-hand, profitable, ordinary, scarce, fashionable, sealed"
        ),
        "line": (
            "The market opens at {time} and is over by noon.",
            "Wheat sold at {n} crowns a sack in {town}, {few} more than in the week before.",
            "A fair has been held in {town} every {month} since {year}.",
            "The bank lent {person} {hundreds} crowns against the next harvest.",
            "Prices fell in {month}, and several shops near the {site} closed their doors.",
            "She bargained for {n} minutes and walked away with {few} {things}.",
            "The toll for a cart was {few} pence, and half as much for a rider.",
            "Demand for {stuff} doubled in {year}, and the traders of {town} grew rich.",
        ),
    },
    "music": {
        "thing": _split(
            "violin, cello, flute, trumpet, drum, piano, organ, score, song, concerto, waltz, ballad, bow, "
            "string, choir, symphony, melody, hymn, harp, recording, march, overture, duet, clarinet"
        ),
        "stuff": _split(
            "applause, rosin, silence, practice, rhythm, sheet music, talent, harmony, attention, skill, rehearsal time"
        ),
        "site": _split(
            "concert hall, opera house, bandstand, rehearsal room, church, conservatory, dance hall, studio, theatre"
        ),
        "worker": _split(
            "violinist, composer, singer, conductor, drummer, organist, pupil, music teacher, critic, instrument maker"
        ),
        "verb": _split(
            "play/played/playing, hear/heard/hearing, practise/practised/practising, record/recorded/recording, "
            "rehearse/rehearsed/rehearsing, perform/performed/performing, arrange/arranged/arranging, "
            "admire/admired/admiring, study/studied/studying, borrow/borrowed/borrowing, "
            "introduce/introduced/introducing"
        ),
        "adj": _split(
            "slow, lively, solemn, familiar, quiet, brilliant, difficult, gentle, loud, cheerful, mournful, "
            "graceful, short"
        ),
        "line": (
            "The concert began at {time} with a {adj} {thing} and ended with a march.",
            "The orchestra of {town} has {n} players, {few} of whom also teach.",
            "The second movement is {degree} {adj}, with a long solo for the oboe.",
            "Critics found little to praise at the premiere of {year}, but the hall was full again on {day}.",
            "A string broke in the {ordinal} bar, and {person} played on without a pause.",
            "The organ was built in {year} and has {hundreds} pipes.",
            "Tune the lowest string first and listen until the beating stops.",
            "The song is known in {town} under {few} different names.",
        ),
    },
    "libraries": {
        "thing": _split(
            "book, atlas, novel, dictionary, index, poem, essay, journal, pamphlet, volume, manual, memoir, fable, "
            "page, chapter, catalogue, card, note, translation, diary, newspaper, biography, travel book, "
            "lecture"
        ),
        "stuff": _split("paper, ink, glue, string, daylight, silence, help, cloth, leather, time, money"),
        "site": _split(
            "reading room, bookshop, lecture hall, school, printing house, bindery, college, basement, study, museum"
        ),
        "worker": _split(
            "librarian, printer, poet, translator, teacher, student, editor, bookseller, reader, publisher, professor"
        ),
        "verb": _split(
            "read/read/reading, borrow/borrowed/borrowing, print/printed/printing, correct/corrected/correcting, "
            "translate/translated/translating, return/returned/returning, review/reviewed/reviewing, "
            "quote/quoted/quoting, collect/collected/collecting, bind/bound/binding, publish/published/publishing"
        ),
        "adj": _split(
            "long, dusty, learned, costly, thin, faded, heavy, popular, battered, bulky, brief, dull, rare, fragile"
        ),
        "line": (
            "The library holds {hundreds} maps and opens at {time} on weekdays.",
            "A fine of {few} pence is due for each week that a book is late.",
            "The first edition of {year} has {hundreds} pages and {n} plates.",
            "{person} read the {ordinal} chapter twice and still disagreed with it.",
            "The printer in {town} could set {few} pages of type in a day.",
            "On the inside of the cover stood a name, a date and the word {town}.",
            "The catalogue is arranged by author, then by year, then by size.",
            "Students come to the {site} in {month}, when the examinations are near.",
        ),
    },
    "stars": {
        "thing": _split(
            "telescope, lens, mirror, star chart, clock, photograph, tripod, eyepiece, antenna, sextant, prism, "
            "globe, logbook, sundial, camera, drawing, star catalogue, notebook, receiver, spectrograph, almanac, "
            "diagram, magnifying glass"
        ),
        "stuff": _split("glass, darkness, patience, moonlight, paper, funding, wire, oil, daylight, silver, help"),
        "site": _split(
            "observatory, old mill, planetarium, lecture room, laboratory, science museum, university, radio station, "
            "control room"
        ),
        "worker": _split(
            "astronomer, observer, student, lens grinder, physicist, amateur, professor, assistant, night guard"
        ),
        "verb": _split(
            "polish/polished/polishing, measure/measured/measuring, photograph/photographed/photographing, "
            "watch/watched/watching, describe/described/describing, study/studied/studying, "
            "adjust/adjusted/adjusting, record/recorded/recording, find/found/finding, examine/examined/examining"
        ),
        "adj": _split(
            "large, bright, costly, dented, polished, portable, blurred, simple, small, steady, foreign, precise, "
            "modern, clear"
        ),
        "line": (
            "The comet was first seen from {town} on {date}, low in the west.",
            "A mirror {n} inches across gathers {hundreds} times as much light as the eye.",
            "The eclipse began at {time} and lasted {few} minutes.",
            "On clear nights in {month} the planet rises just before {time}.",
            "The light of that star left it in {year} and has only now arrived.",
            "The dome turns on {n} wheels and can be moved by a child.",
            "Street lamps in {town} have made the sky too bright for the faintest comets.",
            "{person} noted the position every {few} minutes until dawn.",
        ),
    },
}


def rules(topic: str) -> dict[str, tuple[str, ...]]:
    """Return every list that a sentence on `topic` draws from, keyed by slot name.

    Args:
        topic: A key of `TOPICS`.

    Returns:
        The common lists, the topic's own, the plurals (`things`), the verb forms (`do`, `did`, `doing`).
    """
    own = TOPICS[topic]
    verbs = [verb.split("/") for verb in own["verb"]]
    return {
        **COMMON,
        **own,
        "things": tuple(_plural(noun) for noun in own["thing"]),
        "do": tuple(verb[0] for verb in verbs),
        "did": tuple(verb[1] for verb in verbs),
        "doing": tuple(verb[2] for verb in verbs),
    }
