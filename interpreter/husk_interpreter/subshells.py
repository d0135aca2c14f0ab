# SPDX-License-Identifier: BSD-3-Clause
"""Subshells (JEP 91): each answers requests in a thread of its own, beside the main shell.

One more thread, the reader, takes what comes for them from their socket (wall/interp.h). It runs from
the first subshell to the last: a process without subshells has no thread of ours, and imports none
of this.
"""

import _thread
import asyncio
import queue
import threading
import time

import _husk

from husk_interpreter.kernel import Kernel

JOIN = 2  # seconds: a subshell that is deleted has so long to end what its cells left in its loop
NO_ANSWER = None, None, None


class HiddenThread(threading.Thread):
    """Goes on while a debugger has stopped the others, and keeps no process."""

    def __init__(self, name, target):
        super().__init__(name=name, target=target, daemon=True)
        self.pydev_do_not_trace = True
        self.is_pydev_daemon_thread = True


class Subshell(Kernel):
    """A kernel but for the process: the namespace, IPython and the comms are the main one's."""

    def __init__(self, main, number, ident, threads):
        self.main = main
        self.number = number
        self.subshell_id = ident
        self.session, self.user_ns = main.session, main.user_ns
        self.shell, self.plain = main.shell, main.plain
        self._init_requests()
        self.loop = asyncio.new_event_loop()
        self._threads = threads
        self._answers = queue.SimpleQueue()
        self._guard = threading.Lock()  # of `interruptible` and `leaving`, between threads
        self._struck = False  # an interrupt was sent, and may not have arrived
        self._cpu = 0.0
        self.thread = HiddenThread(f"subshell-{ident}" if ident else "debugger", self._run)
        self.thread.start()

    def _run(self):
        ident = _thread.get_ident()
        self._threads[ident] = self
        asyncio.set_event_loop(self.loop)
        try:
            while not self.leaving:
                try:
                    self.loop.run_forever()
                except KeyboardInterrupt:
                    continue
            self.loop.run_until_complete(self._finish_tasks())
        finally:
            self.loop.close()
            del self._threads[ident]

    async def _finish_tasks(self):
        """What was posted before the end is done; what cells left behind is cancelled."""
        await asyncio.sleep(0)
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=JOIN / 2)

    # --- called by the reader

    def take(self, number, slot, value, parts):
        if number == _husk.INPUT_REPLY:
            self._answers.put((slot, value, parts))
        elif number == _husk.INTERRUPT:
            self.interrupt()
        else:
            self.loop.call_soon_threadsafe(
                self.context.run, self.dispatch, number, slot, value, parts
            )

    def stop(self):
        """When what runs is over."""
        self.loop.call_soon_threadsafe(self._leave)

    def interrupt(self):
        with self._guard:
            if not self.interruptible:
                return
            if self.task is not None and not self._in_user_code():
                self.cancelled = True
                self.loop.call_soon_threadsafe(self.task.cancel)
            else:
                self._struck = True
                _husk.interrupt(self.thread.ident, KeyboardInterrupt)
                self._answers.put(NO_ANSWER)  # who waits for one has to wake up to hear it

    # --- what is different from the main shell

    def _leave(self):
        if self.task is not None:
            self.task.add_done_callback(lambda task: self._leave())
            return
        with self._guard:
            self.leaving = True
        self.loop.stop()

    def post_comm(self, *message):
        with self._guard:
            return not self.leaving and super().post_comm(*message)

    def current(self):
        return self.main.current()

    def begin(self, slot):
        self._cpu = time.thread_time()

    def used(self):
        return {"cpu_us": int((time.thread_time() - self._cpu) * 1e6), "peak": _husk.used()["peak"]}

    def guarded(self, run):
        result = super().guarded(run)
        if not self.interruptible:
            self._close_window()
        return result

    def finish(self, slot, content, result):
        self._close_window()
        super().finish(slot, content, result)

    def _close_window(self):
        """From here on no interrupt hits what is ours: the reply must not be lost."""
        while True:
            try:
                with self._guard:
                    self.interruptible = False
                    struck, self._struck = self._struck, False
                # One that is on its way arrives at a jump backwards. It is not taken back: CPython then
                # has all threads look for it for ever, and 3.11 looks in vain where code is traced.
                for _ in range(10 * struck):
                    pass
                return
            except KeyboardInterrupt:
                continue

    def _wait_for_answer(self, slot):
        while True:
            of, value, parts = self._answers.get()
            if of == slot:
                return value, parts[0]


class Subshells:
    """Those that there are, by number, and their reader."""

    def __init__(self, main):
        self._main = main
        self._lock = threading.Lock()
        self._seen = set()  # numbers: an OPEN_SHELL comes twice, and counts once
        self._shells = {}
        self._all = {}  # also those that end, until the main thread has seen it
        self._threads = {}  # the subshells by the ident of their thread
        self._reader = None

    def hear(self, number, value, parts):
        """OPEN_SHELL or CLOSE_SHELL, in the main thread."""
        if number == _husk.OPEN_SHELL:
            self._open(value, parts[0].decode())
        else:
            self._await_end(value)

    def of_thread(self):
        return self._threads.get(_thread.get_ident())

    def ids(self):
        return [s.subshell_id for s in list(self._shells.values()) if s.subshell_id]

    def _open(self, number, ident):
        with self._lock:
            if number in self._seen:
                return
            self._seen.add(number)
            if not self._shells:
                self._reader = HiddenThread("husk-reader", self._read)
                self._reader.start()
            shell = self._make(number, ident)
            self._shells[number] = self._all[number] = shell

    def _make(self, number, ident):
        if number != _husk.DEBUGGER_SHELL:
            return Subshell(self._main, number, ident, self._threads)
        from husk_interpreter import debugger

        return debugger.DebugShell(self._main, number, None, self._threads)

    def _close(self, number):
        """True if it was the last one."""
        with self._lock:
            self._shells.pop(number).stop()
            self._all = {n: s for n, s in self._all.items() if s.thread.is_alive()}
            return not self._shells

    def _read(self):
        while True:
            try:
                shell, frame = _husk.receive_side()
            except EOFError:
                return  # the main thread sees to that
            if frame[0] == _husk.OPEN_SHELL:
                self._open(frame[2], frame[3][0].decode())
            elif frame[0] != _husk.CLOSE_SHELL:
                self._shells[shell].take(*frame)
            elif self._close(frame[2]):
                return

    def _await_end(self, number):
        """A thread that is about to end is no longer there for the next cell: it may count them."""
        end = time.monotonic() + JOIN
        shell = self._all.get(number)
        if shell is not None:
            shell.thread.join(JOIN)
        with self._lock:
            last = None if self._shells else self._reader
        if last is not None:
            last.join(max(0, end - time.monotonic()))
