-- The questions that count towards CHAT_QUOTA, numbered by owner; and who was told in a channel that it is used up.
CREATE TABLE house_asked (
  channel TEXT NOT NULL,
  owner TEXT NOT NULL,               -- '' for what belongs to nobody
  number BIGINT NOT NULL,
  asked_at DOUBLE PRECISION NOT NULL,
  PRIMARY KEY (channel, owner, number)
);

CREATE TABLE house_told (
  channel TEXT NOT NULL,
  owner TEXT NOT NULL,
  until DOUBLE PRECISION NOT NULL,
  message_id TEXT NOT NULL,          -- what was answered with it: an attempt that failed is repeated
  PRIMARY KEY (channel, owner)
);
