"""CloudCoin wallets: coin formats, what a wallet folder is, and what a backup counts in one.

Money is an integer in units of 1e-8 CloudCoin everywhere; the smallest denomination is one unit.
"""
