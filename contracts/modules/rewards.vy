# pragma version 0.4.3
# pragma nonreentrancy off
"""
@title rewards
@license MIT
@notice Streams reward tokens to stakers: an amount is released evenly over 7 days of staked time, and each released
        unit is shared by stake through an index per token.
        Invariant: what all accounts together can ever claim of a token is at most what came in of it; nothing here
        calls a token or can revert for a stake's sake, so no reward token can hold a stake back.
        Refuses: more than 8 tokens, and more than 2**120 units of one.
"""


struct Stream:
    index: uint256  # released units per unit of stake, times 2**128
    left: uint256  # units not yet released
    seconds_left: uint256  # staked seconds over which `left` is released
    updated_at: uint256  # when the fields above were brought up to date


DURATION: constant(uint256) = 7 * 86_400
MAX_TOKENS: constant(uint256) = 8
# An account's stake times the index gained while it held it is at most (units released) * 2**128, whatever the stakes:
# so every product below stays under 2**248, and no reward can make a change of stake overflow.
_MAX_RECEIVED: constant(uint256) = 2**120
_SCALE_BITS: constant(uint256) = 128


# The tokens ever streamed: an account's rewards in each are brought up to date when its stake changes.
_tokens: DynArray[address, MAX_TOKENS]

# The running stream of each token.
_streams: HashMap[address, Stream]

# Token to account to the index up to which `_owed` is right.
_paid_index: HashMap[address, HashMap[address, uint256]]

# Token to account to what it may claim, times 2**128: fractions wait for the next claim instead of being lost.
_owed: HashMap[address, HashMap[address, uint256]]

# Token to units received and not yet paid out; replaces balanceOf(self), which holds stake too and anyone can inflate.
_booked: HashMap[address, uint256]

# Token to all units ever received; bounds the arithmetic.
_received: HashMap[address, uint256]


@internal
def _add(token: address, amount: uint256, total_stake: uint256):
    """
    @notice Adds an amount to a token's stream. It extends the stream by its own weight, so that small amounts, however
            often added, delay nobody.
    @param amount Units received, above zero.
    @param total_stake The total active stake.
    """
    self._book(token, amount)
    if token not in self._tokens:
        assert len(self._tokens) < MAX_TOKENS, "rewards: too many tokens"
        self._tokens.append(token)
    self._release(token, total_stake)
    stream: Stream = self._streams[token]
    left: uint256 = stream.left + amount
    self._streams[token].seconds_left = (stream.left * stream.seconds_left + amount * DURATION) // left
    self._streams[token].left = left


@internal
def _credit(token: address, account: address, amount: uint256):
    """
    @notice Books an amount for one account at once, outside the stream.
    @param amount Units set apart for rewards by the caller.
    """
    self._book(token, amount)
    self._owed[token][account] += amount << _SCALE_BITS


@internal
def _book(token: address, amount: uint256):
    received: uint256 = self._received[token] + amount
    assert received <= _MAX_RECEIVED, "rewards: amount too large"
    self._received[token] = received
    self._booked[token] += amount


@internal
def _settle_all(account: address, stake: uint256, total_stake: uint256):
    """
    @notice Brings the account's rewards up to date in every token. Call it before its stake changes.
    """
    for token: address in self._tokens:
        self._settle(token, account, stake, total_stake)


@internal
def _settle(token: address, account: address, stake: uint256, total_stake: uint256):
    self._release(token, total_stake)
    index: uint256 = self._streams[token].index
    self._owed[token][account] += stake * (index - self._paid_index[token][account])
    self._paid_index[token][account] = index


@internal
def _take(token: address, account: address) -> uint256:
    """
    @notice Takes the whole units the account may claim out of the books.
    """
    owed: uint256 = self._owed[token][account]
    amount: uint256 = owed >> _SCALE_BITS
    self._owed[token][account] = owed - (amount << _SCALE_BITS)
    self._booked[token] -= amount
    return amount


@internal
@view
def _earned(token: address, account: address, stake: uint256, total_stake: uint256) -> uint256:
    gain: uint256 = stake * (self._released(token, total_stake).index - self._paid_index[token][account])
    return (self._owed[token][account] + gain) >> _SCALE_BITS


@internal
def _release(token: address, total_stake: uint256):
    self._streams[token] = self._released(token, total_stake)


@internal
@view
def _released(token: address, total_stake: uint256) -> Stream:
    """
    @notice The stream brought up to now. Its clock stands still while nobody has stake.
    """
    stream: Stream = self._streams[token]
    if total_stake != 0 and stream.seconds_left != 0:
        elapsed: uint256 = min(block.timestamp - stream.updated_at, stream.seconds_left)
        amount: uint256 = stream.left * elapsed // stream.seconds_left
        stream.left -= amount
        stream.seconds_left -= elapsed
        stream.index += (amount << _SCALE_BITS) // total_stake
    stream.updated_at = block.timestamp
    return stream
