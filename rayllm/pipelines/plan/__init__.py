"""What a run will take before it is started: parameters, disk, memory, time and money.

``forecast`` puts it together from formulas, ``probe`` measures a few real steps in processes of their own
(``probe_rank`` is one of them). Nothing here needs data, and no artifact is made.
"""
