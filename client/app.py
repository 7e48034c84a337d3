"""The plant as a Flower ClientApp.

Our own agent calls it with a warm trainer process. A stock SuperNode runs `app`, which trains in
Flower's own client process and finds the plant's directory in ``node_config["plant"]``.
"""

from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from interplant.client.directory import PlantDirectory
from interplant.client.participation import take_part
from interplant.client.trainer import InlineTrainer, Trainer


def make_app(plant: PlantDirectory, trainer: Trainer) -> ClientApp:
    """Make the ClientApp of one plant."""
    made = ClientApp()

    @made.train()
    def train(message: Message, context: Context) -> Message:
        return take_part(plant, trainer, message)

    return made


app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Take part for the plant that the node's configuration names."""
    plant = PlantDirectory(Path(str(context.node_config["plant"])))
    return take_part(plant, InlineTrainer(plant), message)
