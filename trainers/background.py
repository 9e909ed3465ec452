"""Work in a thread of its own, one thing after the other."""

import threading


class Background:
    """Runs one function at a time beside the training; what it raises is raised here later."""

    def __init__(self):
        self._thread = None
        self._error = None

    @property
    def failed(self):
        """Whether a function has raised; the next call here raises its error."""
        return self._error is not None

    def start(self, function, *arguments):
        """Runs `function(*arguments)`, once the one before has ended."""
        self.wait()
        self._thread = threading.Thread(target=self._run, args=(function, *arguments))
        self._thread.start()

    def wait(self):
        """Waits until nothing runs any more, and raises what was raised."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _run(self, function, *arguments):
        try:
            function(*arguments)
        except BaseException as error:  # raised again by the next call
            self._error = error
