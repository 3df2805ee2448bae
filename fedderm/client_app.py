"""The Flower ClientApp, the same in simulation and deployment: it only routes.

The work is in ``fedderm.site_tasks``, imported with the first message that is answered: a server process that
starts workers does not import torch for their sake, nor does a hospital to refuse.
"""

from flwr.app import Context, Message

from fedderm.hospital.gate import GatedApp

app = GatedApp()


@app.query()
def query(message: Message, context: Context) -> Message:
    """Introduce the site."""
    from fedderm import site_tasks

    return site_tasks.query(message, context)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train the global model on the site's train split."""
    from fedderm import site_tasks

    return site_tasks.train(message, context)


@app.train("head")
def head(message: Message, context: Context) -> Message:
    """Sum up the features of the train split, for heads in closed form."""
    from fedderm import site_tasks

    return site_tasks.head(message, context)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Count the model's scores on the site's splits."""
    from fedderm import site_tasks

    return site_tasks.evaluate(message, context)


@app.query("recalibrate")
def recalibrate(message: Message, context: Context) -> Message:
    """Evaluate the final model before and after the site's own recalibration."""
    from fedderm import site_tasks

    return site_tasks.recalibrate(message, context)
