"""Privacy: what is held of a person, exported or erased when a platform or a person asks for it (docs/privacy.md).

tables      what erasure does to each table, and why the others need none: one answer a table
subjects    who is asked about, and whether a text names them
tombstones  rows that were erased and are never loaded with personal data again
requests    the requests: their deadlines, their proof, and who is reminded
erasure     a customer of a store, or a whole store, erased
export      everything that is held of a customer, in a file for the operator
commands    what a platform asks for, carried out
"""
