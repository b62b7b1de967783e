"""The probe: what each source gives a model, and what fusing them gains or costs, for any model and any data.

A view of a row is asked of a model, on this machine or behind an OpenAI-compatible server; the rewards of training
score the answers; paired statistics over rows compare the views; a report shows the figures and the rows behind them.
"""
