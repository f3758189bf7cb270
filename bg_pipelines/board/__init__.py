"""The board: one look for the person on call, and the buttons for what they then do. Server-rendered; it speaks HTML alone.

app       routes and what stands before each of them: hosts, headers, sessions, roles
users     who may log in: names, roles, passwords
session   who is logged in, and the limit of logins that fail
figures   the figures of `status`, computed once for all who look at the same time
pages     what each page shows
sparkline a trend as a small line, and in words
token_end when a store's token ends
actions   what each button does
"""
