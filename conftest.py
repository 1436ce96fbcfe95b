"""`pytest --nbval` compares outputs strictly; what cannot be the same on two machines is left out here."""


def pytest_collectstart(collector):
    if hasattr(collector, "skip_compare"):  # a notebook
        collector.skip_compare += (
            "application/vnd.plotly.v1+json",
            "application/vnd.jupyter.widget-view+json",
            # Measured values, shown by `lib.display.show`, `Results` and captions. What is printed stays compared.
            "text/markdown",
        )
