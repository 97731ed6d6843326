"""Faults that somebody might make in the scheduler, for mutate_scheduler.py: the source as it is, and with them."""

from __future__ import annotations

from mutation import Fault


def _fault(title: str, module: str, before: str, after: str) -> Fault:
    return Fault(title, f"scheduler/{module}", before, after, "tests/scheduler")


def _pool(title: str, before: str, after: str) -> Fault:
    return _fault(title, "block_pool", before, after)


def _scheduler(title: str, before: str, after: str) -> Fault:
    return _fault(title, "scheduler", before, after)


def _step(title: str, before: str, after: str) -> Fault:
    return _fault(title, "step", before, after)


def _sequence(title: str, before: str, after: str) -> Fault:
    return _fault(title, "sequence", before, after)


FAULTS = (
    # blocks and who has them
    _scheduler("blocks are not given back", "        self.pool.release(seq.blocks)\n", ""),
    _scheduler("cached blocks are used without a reference", "        self.pool.share(cached)\n", ""),
    _scheduler("a row is not given back", "        self._free_rows.append(seq.row)\n", ""),
    _scheduler(
        "a block too few is taken",
        "missing = pool.blocks_for(len(seq.tokens)) - len(seq.blocks)",
        "missing = pool.blocks_for(len(seq.tokens) - 1) - len(seq.blocks)",
    ),
    _scheduler(
        "new blocks are not announced",
        "            step.add(seq, first_block, len(running) - index)",
        "            step.add(seq, len(seq.blocks), len(running) - index)",
    ),
    _scheduler("room is not counted anew", "        seq.room = len(seq.blocks) * pool.block_size\n", ""),
    _scheduler("room outlives its blocks", "seq.computed = seq.room = 0", "seq.computed = 0"),
    _scheduler("computed outlives its blocks", "seq.computed = seq.room = 0", "seq.room = 0"),
    _scheduler(
        "a found prefix is computed again from its middle",
        "        seq.computed = len(cached) * size\n",
        "        seq.computed = max(0, len(cached) - 1) * size\n",
    ),
    _scheduler(
        "idle blocks of a found prefix count as free", " - self.pool.count_idle(cached) - missing", " - missing"
    ),
    _pool("shared blocks stay idle", "            self._idle.pop(block, None)\n", ""),
    _pool("taken blocks stay findable", "        self.withdraw(taken)\n", ""),
    _pool("taken blocks have no user", "            self._refs[block] = 1\n", "            self._refs[block] = 0\n"),
    _pool("a block is idle while others use it", "            if not self._refs[block]:\n", "            if True:\n"),
    _pool(
        "prefixes are reused before plain blocks",
        "                    self._idle.move_to_end(block, last=False)\n",
        "                    pass\n",
    ),
    _pool("beginnings go before their continuations", "for block in reversed(blocks):", "for block in blocks:"),
    _pool(
        "the last block is not counted",
        "return -(-num_tokens // self.block_size)",
        "return num_tokens // self.block_size",
    ),
    # what can be found
    _scheduler(
        "published a token too early", "        while seq.fills <= end:\n", "        while seq.fills <= end + 1:\n"
    ),
    _scheduler(
        "published when planned",
        "                self._publish(seq, end)",
        "                self._publish(seq, seq.computed)",
    ),
    _scheduler(
        "never published", "        if self.pool.prefix_caching:\n            seq.fills = seq.computed + size\n", ""
    ),
    _pool(
        "published although caching is off", "        if self.prefix_caching and key not in", "        if key not in"
    ),
    _scheduler(
        "a block of the wrong place is published",
        "index = seq.fills // size - 1",
        "index = max(0, seq.fills // size - 2)",
    ),
    _scheduler("published for another after a preemption", "        seq.fills = NEVER", "        pass"),
    _scheduler("bad logits leave their prefix behind", "                self.pool.withdraw(", "                str("),
    _sequence(
        "the last token is taken from the cache too",
        "range(self.first_wanted // block_size)",
        "range(len(self.tokens) // block_size)",
    ),
    _sequence("salts do not keep apart", "        if not (self.variant or salt):\n", "        if True:\n"),
    _sequence("keys do not depend on what precedes", "keys[-1] if keys else self._root()", "self._root()"),
    _sequence("rotations do not keep apart", 'key=b"%d" % self.variant', 'key=b"0"'),
    _pool("keys do not depend on their parent", "blake2b(parent + array", "blake2b(b'' + array"),
    _pool("an equal block is published over the first", " and key not in self._block_of:", ":"),
    _pool("a withdrawn block is still found", "                del self._block_of[key]\n", "                pass\n"),
    # what is computed
    _step("computed is one short", "        seq.computed = stop\n", "        seq.computed = stop - 1\n"),
    _step("computed is one ahead", "        seq.computed = stop\n", "        seq.computed = stop + 1\n"),
    _step(
        "a chunk takes what others need",
        "start + self.tokens_left - reserved)",
        "start + self.tokens_left)",
    ),
    _step("the budget is not counted", "        self.tokens_left -= stop - start\n", ""),
    _step("somebody is let in behind an unfinished prompt", "            self.is_open = False\n", "            pass\n"),
    _step(
        "logits of a prompt cost nothing",
        "                    self._prompt_logits -= rows - 1\n",
        "                    pass\n",
    ),
    _step(
        "logits of a prompt are wanted twice",
        "                seq.told = max(seq.told, min(stop, len(seq.request.prompt) - 1))\n",
        "                pass\n",
    ),
    _step(
        "logits of one position too many",
        "rows = max(0, stop - wanted)",
        "rows = max(0, min(stop - start, stop - wanted + 1))",
    ),
    _step("every chunk chooses a token", "chooses = stop == length", "chooses = True"),
    _step(
        "who has ended is computed on", "enumerate(self.parts) if part.seq.ended]", "enumerate(self.parts) if False]"
    ),
    _step(
        "a known token stays unknown", "            self._tokens[index] = seq.tokens[position]\n", "            pass\n"
    ),
    _step("the wrong token is filled in", "= seq.tokens[position]", "= seq.tokens[position - 1]"),
    _step(
        "the wrong tokens are left out",
        "token, block = sum(self._heads[5:at:CHUNK_WORDS]), ",
        "token, block = sum(self._heads[13:at:CHUNK_WORDS]), ",
    ),
    _scheduler(
        "a step that was prepared is forgotten",
        "step, self._prepared = self._prepared, None",
        "step = self._prepared = None",
    ),
    _scheduler(
        "who is about to end is planned again",
        "            if length >= seq.limit:  # the token in flight is its last\n                continue\n",
        "",
    ),
    _scheduler("positions of wanted tokens are one off", "range(end - rows + 1, end + 1)", "range(end - rows, end)"),
    # vectors
    _step("who pools wants logits", "(0, rows) if seq.pools else (rows, 0)", "(rows, 0)"),
    _step(
        "hidden states are as few as logits",
        "            if not seq.pools:\n                # One",
        "            if True:\n                # One",
    ),
    _step(
        "hidden states cost logits",
        "                if not seq.pools:\n                    self._prompt_logits",
        "                if True:\n                    self._prompt_logits",
    ),
    _sequence("a mean has the last position alone", "0 if request.wants_whole_prompt else", "0 if False else"),
    _scheduler("who pools is sampled", "            if seq.pools:\n                continue\n", "            pass\n"),
    _scheduler("parts without rows are pooled", "if part.seq.pools and part.rows]", "if part.seq.pools]"),
    _scheduler(
        "a vector ends nobody",
        "self._end(seq, Finish.STOP, vector=vector)",
        "TokenEvent(seq.id, None, Finish.STOP, vector=vector)",
    ),
    _scheduler(
        "vectors need room for a token",
        "prompt_len > self.max_model_len - (not pools)",
        "prompt_len >= self.max_model_len",
    ),
    # who goes first
    _sequence("priorities are ignored", "self.order = request.priority, self.arrival", "self.order = 0, self.arrival"),
    _sequence("the last to come goes first", "request.priority, self.arrival", "request.priority, -self.arrival"),
    _scheduler("the first is preempted", "victim = self._running.pop()", "victim = self._running.pop(0)"),
    _scheduler("who was preempted queues up anew", "self._waiting.put_back(victim)", "self._waiting.add(victim)"),
    _scheduler(
        "who is let in is last in order",
        "        insort(self._running, seq, key=_order)\n",
        "        self._running.append(seq)\n",
    ),
    _scheduler(
        "let in while others are thrown out", "        step.is_open &= self.counters.preemptions == preemptions\n", ""
    ),
    _scheduler(
        "let in without a block to spare", "left < (len(self._running) + 1 if self._running else 0)", "left < 0"
    ),
    _scheduler(
        "nobody may have everything", "len(self._running) + 1 if self._running else 0", "len(self._running) + 1"
    ),
    _scheduler(
        "more run than can advance",
        "            if len(self._running) == self.max_num_batched_tokens or not (",
        "            if not (",
    ),
    _fault(
        "the most urgent waits longest",
        "waiting",
        "self._lines[self._priorities[0]]",
        "self._lines[self._priorities[-1]]",
    ),
    _fault(
        "who comes back is behind the others",
        "waiting",
        "        self._line(seq).move_to_end(seq.id, last=False)\n",
        "",
    ),
    _fault("the queue miscounts", "waiting", "        self._count -= 1\n", ""),
    _fault(
        "the queue is walked by who leaves it",
        "waiting",
        "        del line[seq.id]\n",
        "        del line[next(id for id, each in line.items() if each is seq)]\n",
    ),
    _scheduler(
        "the queue is walked by who comes",
        "        self._waiting.add(seq)\n",
        "        assert seq not in list(self._waiting)\n        self._waiting.add(seq)\n",
    ),
    # ends
    _scheduler("one token too many", "        elif at + 1 >= seq.limit:\n", "        elif at >= seq.limit:\n"),
    _scheduler("one token too few", "        elif at + 1 >= seq.limit:\n", "        elif at + 2 >= seq.limit:\n"),
    _scheduler("stops one token late", "at + 1 >= seq.stops_from", "at >= seq.stops_from"),
    _scheduler("stops too early", " and at + 1 >= seq.stops_from:", ":"),
    _scheduler(
        "a token lands in the wrong place", "        seq.tokens[at] = token\n", "        seq.tokens[at - 1] = token\n"
    ),
    _scheduler("cached tokens are told twice", "        seq.untold = 0\n", ""),
    _scheduler("cached tokens are counted at every return", "        if not seq.admitted:\n", "        if True:\n"),
    _scheduler("who has ended is still known", "        del self._alive[seq.id]\n", ""),
    _scheduler("who has ended still has a deadline", "        self._deadlines.forget(seq.id)\n", ""),
    _scheduler(
        "ended in the middle of a step",
        '            raise RuntimeError(f"cannot {wish}',
        '            str(f"cannot {wish}',
    ),
    _scheduler(
        "an error ends nobody",
        "                events.append(self._end(seq, Finish.ERROR, error)._replace(refused=refused))\n"
        "                continue\n",
        "",
    ),
    _scheduler(
        "an abort is told twice",
        "return self._end(seq, Finish.ABORT) if seq else None",
        "return TokenEvent(request_id, None, Finish.ABORT)",
    ),
    _fault("time is never up", "deadlines", "self._heap[0][0] <= now", "False"),
    _fault("time is up too late", "deadlines", "self._heap[0][0] <= now", "self._heap[0][0] < now - 1"),
    _fault(
        "time is up for one who has ended",
        "deadlines",
        "            if self._moment_of.get(request_id) == moment:\n",
        "            if True:\n",
    ),
    _fault("deadlines pile up", "deadlines", "len(self._heap) > 2 * len(self._moment_of) + 64", "False"),
    # the wire
    _fault(
        "words are not checked for their number",
        "plan",
        "len(words) != HEADER_WORDS + CHUNK_WORDS * chunks + tokens + blocks",
        "False",
    ),
    _fault("negative words pass", "plan", " or min(words) < 0:", ":"),
    _fault("chunks without tokens pass", "plan", "0 in lengths or ", ""),
    _fault("more rows than tokens pass", "plan", "heads[7::CHUNK_WORDS])\n", "[0] * chunks)\n"),
)
