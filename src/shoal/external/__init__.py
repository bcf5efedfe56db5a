"""Model servers that are not Shoal's: how they are started, reached, given models, asked.

Above `isolation`, whose waits between restarts and words about ends hold here, too. Only
`connection` imports grpcio, and only `opening` imports `connection`.
"""
