// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

/// @title An owner, payee or signer that is a contract, and calls back whenever it is sent ether
/// @dev For tests only.
contract Reenter {
    address private immutable TARGET;
    bytes private again;
    /// @notice How often ether came while armed.
    uint256 public entered;
    /// @notice How many of the calls back succeeded.
    uint256 public succeeded;
    /// @notice Whether ether is refused.
    bool public refusing;

    constructor(address target) {
        TARGET = target;
    }

    /// @notice Calls the target with `data`; reverts as it does.
    function act(bytes calldata data) external payable {
        (bool ok, bytes memory out) = TARGET.call{value: msg.value}(data);
        if (!ok) {
            assembly {
                revert(add(out, 32), mload(out))
            }
        }
    }

    /// @notice What to call when ether comes; nothing if empty.
    function arm(bytes calldata data) external {
        again = data;
    }

    /// @notice Refuses ether from now on, or takes it again.
    function refuse(bool whether) external {
        refusing = whether;
    }

    receive() external payable {
        require(!refusing);
        if (again.length == 0) return;
        ++entered;
        (bool ok,) = TARGET.call(again);
        if (ok) ++succeeded;
    }
}
