// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

/// @notice A ticket, and what the caller accepts for it.
struct Claim {
    address payer;
    address payee;
    uint32 nonce;
    bytes32 anchor;
    uint96 face;
    uint64 winProb;
    uint40 expiry;
    uint16 draw; // which draw won, from 1
    bytes32 link; // its preimage: hashed `draw` times it is the anchor
    bytes32 rand; // the payee's secret; the payer signed its hash
    bytes32 r; // signature, EIP-2098
    bytes32 vs;
    uint96 minPayout; // pay at least so much, or nothing happens
    bool mayDefault; // the payee takes less than the face, or out of the reserve, if the balance is short
}

/// @title Tickets: what is signed, and which draws win
library Ticket {
    bytes32 private constant DOMAIN_TYPE =
        keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)");
    bytes32 private constant SESSION_TYPE = keccak256(
        "Session(address payer,address payee,uint32 nonce,bytes32 anchor,bytes32 randHash,uint96 face,uint64 winProb,uint40 expiry)"
    );
    uint256 private constant HALF_ORDER = 0x7fffffffffffffffffffffffffffffff5d576e7357a4501ddfe92f46681b20a0;

    /// @dev What sessions are signed for: this contract on the chain as it calls itself now.
    function domain() internal view returns (bytes32) {
        return keccak256(abi.encode(DOMAIN_TYPE, keccak256("OnionPay"), keccak256("1"), block.chainid, address(this)));
    }

    /// @dev Whether `signer` signed the ticket's session, in the one form that is accepted. Copies the session's fields as they are
    /// in the calldata: all of them have been read, and so checked for stray bits, before.
    function signed(Claim calldata claim, bytes32 separator, address signer) internal pure returns (bool) {
        bytes32 digest = SESSION_TYPE;
        assembly ("memory-safe") {
            let m := mload(0x40)
            mstore(0, calldataload(add(claim, 0x120))) // rand
            mstore(m, digest)
            calldatacopy(add(m, 0x20), claim, 0x80) // payer, payee, nonce, anchor
            mstore(add(m, 0xa0), keccak256(0, 0x20))
            calldatacopy(add(m, 0xc0), add(claim, 0x80), 0x60) // face, winProb, expiry
            digest := keccak256(m, 0x120)
            mstore(m, hex"1901")
            mstore(add(m, 0x02), separator)
            mstore(add(m, 0x22), digest)
            digest := keccak256(m, 0x42)
        }
        uint256 s = uint256(claim.vs) & type(uint256).max >> 1;
        if (s > HALF_ORDER || signer == address(0)) return false;
        return ecrecover(digest, uint8(27 + (uint256(claim.vs) >> 255)), claim.r, bytes32(s)) == signer;
    }

    /// @dev `link`, hashed `steps` times.
    function walk(bytes32 link, uint256 steps) internal pure returns (bytes32 hash) {
        assembly ("memory-safe") {
            mstore(0, link)
            for {} gt(steps, 7) { steps := sub(steps, 8) } {
                mstore(0, keccak256(0, 32))
                mstore(0, keccak256(0, 32))
                mstore(0, keccak256(0, 32))
                mstore(0, keccak256(0, 32))
                mstore(0, keccak256(0, 32))
                mstore(0, keccak256(0, 32))
                mstore(0, keccak256(0, 32))
                mstore(0, keccak256(0, 32))
            }
            for {} steps { steps := sub(steps, 1) } { mstore(0, keccak256(0, 32)) }
            hash := mload(0)
        }
    }

    /// @dev Whether a draw wins: the first 64 bits of the hash of its link and the payee's secret are below `winProb`.
    function wins(bytes32 link, bytes32 rand, uint64 winProb) internal pure returns (bool) {
        uint256 hash;
        assembly ("memory-safe") {
            mstore(0, link)
            mstore(32, rand)
            hash := keccak256(0, 64)
        }
        return hash >> 192 < winProb;
    }
}
