"""What the benchmarks on a GPU share: CUDA graphs, times between events, peaks of memory."""

import statistics

import torch


def as_graph(function):
    """The function's work, replayed from a CUDA graph.

    The graph reads the function's tensors where they lie: they live as long as it does.
    """
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            function()
        torch.cuda.synchronize()
        torch.cuda.empty_cache()  # what the graph takes for itself lies in a pool of its own
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            function()

    def replay(kept=function):
        graph.replay()

    return replay


def times(functions, repeats, in_a_row=None):
    """Quartiles in ms of a call of each function, all called in turn.

    Short work asked for from Python is timed in_a_row calls at once: 10, or 1 of a graph.
    """
    cache = torch.empty(2**28, dtype=torch.int8, device="cuda")
    events = {name: [] for name in functions}
    for repeat in range(repeats + 3):
        for name, function in functions.items():
            cache.zero_()
            number = in_a_row or (1 if "graph" in name else 10)
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            for _ in range(number):
                function()
            end.record()
            if repeat >= 3:  # before: warm-up
                events[name].append((begin, end, number))
    torch.cuda.synchronize()
    taken = {
        name: [begin.elapsed_time(end) / n for begin, end, n in rows]
        for name, rows in events.items()
    }
    return {name: [round(q, 4) for q in statistics.quantiles(ms)] for name, ms in taken.items()}


def peak_bytes(function):
    """What a call takes beyond what stands before it."""
    function()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    function()
    return torch.cuda.max_memory_allocated() - before
