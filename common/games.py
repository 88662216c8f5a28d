"""Facts about Procgen that need no engine: importing this is free."""

GAMES = (
    "bigfish",
    "bossfight",
    "caveflyer",
    "chaser",
    "climber",
    "coinrun",
    "dodgeball",
    "fruitbot",
    "heist",
    "jumper",
    "leaper",
    "maze",
    "miner",
    "ninja",
    "plunder",
    "starpilot",
)
DISTRIBUTION_MODES = ("easy", "hard")
NUM_ACTIONS = 15
# The buttons of each action, as Procgen combines them; what the letters do depends on the game.
ACTION_BUTTONS = (
    "left+down",
    "left",
    "left+up",
    "down",
    "none",
    "up",
    "right+down",
    "right",
    "right+up",
    *"DAWSQE",
)
FRAME_SHAPE = (64, 64, 3)
FRAME_BYTES = 64 * 64 * 3  # as uint8
