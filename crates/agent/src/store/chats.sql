-- Where the tenant's own people wrote from over a channel, and who: what they ask for may be said there.
CREATE TABLE channel_chats (
    channel TEXT NOT NULL,
    chat TEXT NOT NULL,
    sender TEXT NOT NULL,
    is_group INTEGER NOT NULL,
    PRIMARY KEY (channel, chat)
) STRICT;
