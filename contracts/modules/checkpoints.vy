# pragma version 0.4.3
# pragma nonreentrancy off
"""
@title checkpoints
@license MIT
@notice Histories of numbers by account, keyed by block.timestamp: what ERC-5805 needs to look up past votes.
        Invariant: a point of an earlier second is never written again, so what was looked up once stays true. Several
        writes within one second leave only the last: nobody has a history of a stake held for less than a block.
"""


_VALUE_BITS: constant(uint256) = 208
_VALUE_MASK: constant(uint256) = 2**_VALUE_BITS - 1


# Trace, account and position to timestamp 48 | value 208 (highest bits first), in rising order of timestamps.
_points: HashMap[uint256, HashMap[address, HashMap[uint256, uint256]]]

# Trace and account to the number of points.
_lengths: HashMap[uint256, HashMap[address, uint256]]


@internal
def _push(trace: uint256, account: address, new_value: uint256):
    """
    @notice Records that the trace has this value from now on.
    @param trace Which history; the caller numbers them.
    @param account Whose.
    @param new_value Below 2**208.
    """
    assert new_value <= _VALUE_MASK, "checkpoints: value too large"
    length: uint256 = self._lengths[trace][account]
    point: uint256 = (block.timestamp << _VALUE_BITS) | new_value
    if length != 0 and self._points[trace][account][length - 1] >> _VALUE_BITS == block.timestamp:
        self._points[trace][account][length - 1] = point
        return
    self._points[trace][account][length] = point
    self._lengths[trace][account] = length + 1


@internal
@view
def _latest(trace: uint256, account: address) -> uint256:
    length: uint256 = self._lengths[trace][account]
    if length == 0:
        return 0
    return self._points[trace][account][length - 1] & _VALUE_MASK


@internal
@view
def _lookup(trace: uint256, account: address, timepoint: uint256) -> uint256:
    """
    @notice The value at the end of a past second; 0 before the first point.
    @param timepoint Seconds; reverts unless it lies in the past, since the present second may still change.
    """
    assert timepoint < block.timestamp, "checkpoints: future lookup"
    low: uint256 = 0
    high: uint256 = self._lengths[trace][account]
    for _: uint256 in range(256):
        if low == high:
            break
        middle: uint256 = (low + high) // 2
        if self._points[trace][account][middle] >> _VALUE_BITS > timepoint:
            high = middle
        else:
            low = middle + 1
    if low == 0:
        return 0
    return self._points[trace][account][low - 1] & _VALUE_MASK
