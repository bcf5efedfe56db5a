"""What an instance tells of itself while it runs: logs, metrics, latencies of the last minutes.

Decides nothing and knows neither settings nor the rest of the system; everybody above may use it.
"""
