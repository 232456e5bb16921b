// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {Claim, Ticket} from "./Ticket.sol";

/// @title OnionPay: pots, tickets and the registry of relays
/// @notice A pot is one owner's balance (spendable) and reserve (collateral and bond, behind a lock of seven days).
/// A ticket is a session that the pot's signer signed, with a draw that won; it is paid once, into the payee's balance.
/// @dev No owner, proxy, pause, oracle or fee. Ether leaves by `withdraw` and `withdrawReserve` only; forced ether is nobody's.
contract OnionPay {
    /// @notice The money of a pot: one word of storage.
    struct Money {
        uint96 balance; // wei, spendable and withdrawable at once
        uint96 reserve; // wei, collateral; a relay's bond
        uint40 unlockAt; // when the reserve may leave; 0 = locked
        uint16 defaults; // how often a ticket was not covered by the balance; stays at its maximum
        bool bound; // whether `onlyPayee` is set: spares a read when it is not
    }

    /// @notice One owner's pot.
    struct Pot {
        Money money;
        address signer; // whose signature binds the pot
        uint40 lastUnlock; // when the last unlock began
        bool registered; // whether the owner is a registered relay
        address onlyPayee; // who alone may be paid from the pot; 0 = anyone
    }

    /// @notice A registered relay.
    struct Relay {
        address owner;
        uint40 since; // when it registered
        bytes32 idKey;
    }

    /// @notice What became of a ticket. Everything but `Paid` left no trace.
    enum Code {
        Paid,
        BadTerms, // payer is payee, face 0, or draw not in 1 to MAX_DRAWS
        WrongCaller, // neither the payee nor its signer: anyone else could use up a nonce with a ticket of its own
        Expired,
        TooFar, // expires more than MAX_TICKET_LIFE ahead
        Used,
        BadChain, // the link does not lead to the anchor
        NoWin,
        BadSignature, // not by the pot's signer, or not in the one accepted form
        WrongPayee, // the pot is bound to another payee
        Short, // the balance is short, and the caller takes no default
        BelowMinimum, // the payout would be below `minPayout`, or nothing
        Overflow // the payee's balance would not fit its 96 bits
    }

    /// @notice How long a reserve stays after its unlock began, and how long a relay stays away after it.
    uint40 public constant UNLOCK_DELAY = 7 days;
    /// @notice How far ahead a ticket's expiry may be.
    uint40 public constant MAX_TICKET_LIFE = 72 hours;
    /// @notice The most draws of one session.
    uint16 public constant MAX_DRAWS = 64;
    /// @notice The least reserve of a registered relay: against spam only, networks demand their own.
    uint96 public constant MIN_BOND = 0.001 ether;

    mapping(address owner => Pot) private pots;
    mapping(address payer => mapping(address payee => mapping(uint256 word => uint256 bits))) private used;
    Relay[] private relays;
    mapping(address owner => uint256) private relayIndex;

    /// @notice Hash over all changes of the registry: root' = keccak256(abi.encode(root, seq, owner, idKey, registered)).
    bytes32 public registryRoot;
    /// @notice The number of the registry's last change, from 1.
    uint64 public registrySeq;
    /// @notice Wei that defaults have burnt; it stays in the contract for ever.
    uint256 public burned;

    /// @notice A pot's money changed; what a ticket moves between two balances is told by `Redeemed` alone.
    event AccountChanged(address indexed owner, uint96 balance, uint96 reserve, uint40 unlockAt);
    /// @notice A pot's signer or only payee changed.
    event KeysChanged(address indexed owner, address signer, address onlyPayee);
    /// @notice A ticket was paid into `payee`'s balance: out of `payer`'s, or, `defaulted`, also out of its reserve.
    event Redeemed(address indexed payer, address indexed payee, uint32 nonce, uint96 payout, bool defaulted);
    /// @notice A relay was registered or left.
    event RelayChanged(address indexed owner, uint64 seq, bytes32 idKey, bool registered);

    /// @notice The ticket was not paid.
    error Refused(Code code);
    /// @notice Only a pot without reserve may change its keys.
    error ReserveNotEmpty();
    /// @notice The balance or the value sent does not cover the amount.
    error AmountTooLarge();
    /// @notice The zero address, or an identity key of zeros.
    error Zero();
    /// @notice The reserve is being unlocked.
    error Unlocking();
    /// @notice The reserve is not being unlocked.
    error NotUnlocking();
    /// @notice Not before `time`.
    error TooEarly(uint40 time);
    /// @notice The reserve is empty, or below MIN_BOND for a relay.
    error ReserveTooLow();
    /// @notice The owner is registered.
    error AlreadyRegistered();
    /// @notice The receiver did not take the ether.
    error SendFailed();

    // ---- Pots

    /// @notice Names whose signatures bind the caller's pot; 0 for nobody. Only while its reserve is 0.
    /// @param signer An address with a secp256k1 key; contracts cannot sign.
    function setSigner(address signer) external {
        Pot storage pot = pots[msg.sender];
        require(pot.money.reserve == 0, ReserveNotEmpty());
        pot.signer = signer;
        emit KeysChanged(msg.sender, signer, pot.onlyPayee);
    }

    /// @notice Binds the caller's pot to one payee; 0 for anyone. Only while its reserve is 0.
    /// @param payee Who alone may be paid.
    function setOnlyPayee(address payee) external {
        Pot storage pot = pots[msg.sender];
        require(pot.money.reserve == 0, ReserveNotEmpty());
        pot.onlyPayee = payee;
        pot.money.bound = payee != address(0);
        emit KeysChanged(msg.sender, pot.signer, payee);
    }

    /// @notice Adds the value sent to the balance of any pot. Anyone may call; nothing else of the pot changes.
    /// @param owner Whose pot.
    function deposit(address owner) external payable {
        require(owner != address(0), Zero());
        Pot storage pot = pots[owner];
        pot.money.balance = _sum(pot.money.balance, msg.value);
        _changed(owner, pot);
    }

    /// @notice Adds the value sent to the caller's reserve, unless it is being unlocked.
    function addReserve() external payable {
        Pot storage pot = pots[msg.sender];
        require(pot.money.unlockAt == 0, Unlocking());
        pot.money.reserve = _sum(pot.money.reserve, msg.value);
        _changed(msg.sender, pot);
    }

    /// @notice Moves some of the caller's balance to its reserve, unless that is being unlocked.
    /// @param amount How much, in wei.
    function moveToReserve(uint96 amount) external {
        Pot storage pot = pots[msg.sender];
        require(pot.money.unlockAt == 0, Unlocking());
        require(amount <= pot.money.balance, AmountTooLarge());
        pot.money.balance -= amount;
        pot.money.reserve = _sum(pot.money.reserve, amount);
        _changed(msg.sender, pot);
    }

    /// @notice Pays out some of the caller's balance at once.
    /// @param to Who gets it.
    /// @param amount How much, in wei.
    function withdraw(address payable to, uint96 amount) external {
        Pot storage pot = pots[msg.sender];
        require(amount <= pot.money.balance, AmountTooLarge());
        pot.money.balance -= amount;
        _changed(msg.sender, pot);
        _send(to, amount);
    }

    /// @notice Begins to unlock the caller's reserve; a relay is deregistered at once. Not while an unlock runs.
    function startUnlock() external {
        Pot storage pot = pots[msg.sender];
        require(pot.money.unlockAt == 0, Unlocking());
        require(pot.money.reserve != 0, ReserveTooLow());
        pot.money.unlockAt = uint40(block.timestamp) + UNLOCK_DELAY;
        pot.lastUnlock = uint40(block.timestamp);
        _changed(msg.sender, pot);
        if (pot.registered) _deregister(msg.sender, pot);
    }

    /// @notice Locks the caller's reserve again.
    function cancelUnlock() external {
        Pot storage pot = pots[msg.sender];
        require(pot.money.unlockAt != 0, NotUnlocking());
        pot.money.unlockAt = 0;
        _changed(msg.sender, pot);
    }

    /// @notice Pays out the caller's whole reserve, UNLOCK_DELAY after its unlock began.
    /// @param to Who gets it.
    function withdrawReserve(address payable to) external {
        Pot storage pot = pots[msg.sender];
        require(pot.money.unlockAt != 0, NotUnlocking());
        require(block.timestamp >= pot.money.unlockAt, TooEarly(pot.money.unlockAt));
        uint96 amount = pot.money.reserve;
        pot.money.reserve = 0;
        pot.money.unlockAt = 0;
        _changed(msg.sender, pot);
        _send(to, amount);
    }

    /// @notice The pot of an owner.
    /// @param owner Whose pot.
    function accounts(address owner) external view returns (Pot memory) {
        return pots[owner];
    }

    // ---- Tickets

    /// @notice Pays a ticket into the payee's balance, or reverts. Only the payee and the signer of the payee's pot may call.
    /// @param claim The ticket.
    /// @return payout What was paid, in wei.
    function redeem(Claim calldata claim) external returns (uint96 payout) {
        Code code;
        (code, payout) = _redeem(claim, Ticket.domain());
        require(code == Code.Paid, Refused(code));
    }

    /// @notice Pays those of the tickets that can be paid; one that cannot leaves no trace and spoils no other. As `redeem`, only
    /// for the payee and its signer: the tickets of others are refused.
    /// @param claims The tickets, in any order; a repeated one is paid once.
    /// @return total What was paid together, in wei.
    /// @return codes What became of each, as `Code`.
    function redeemMany(Claim[] calldata claims) external returns (uint256 total, uint8[] memory codes) {
        codes = new uint8[](claims.length);
        bytes32 domain = Ticket.domain();
        for (uint256 i = 0; i < claims.length; ++i) {
            (Code code, uint96 payout) = _redeem(claims[i], domain);
            codes[i] = uint8(code);
            total += payout;
        }
    }

    /// @notice Whether a ticket of this pair and nonce was paid.
    /// @param payer Whose pot paid.
    /// @param payee Who was paid.
    /// @param nonce The session's nonce.
    function isUsed(address payer, address payee, uint32 nonce) external view returns (bool) {
        return used[payer][payee][nonce >> 8] >> (nonce & 0xff) & 1 != 0;
    }

    // ---- Registry

    /// @notice Registers the caller as a relay: with a locked reserve of MIN_BOND or more, and not within UNLOCK_DELAY of the
    /// beginning of its last unlock. Leaving is `startUnlock`.
    /// @param idKey The relay's identity key; who claims another's gains nothing, descriptors name the owner.
    function register(bytes32 idKey) external {
        Pot storage pot = pots[msg.sender];
        require(idKey != 0, Zero());
        require(!pot.registered, AlreadyRegistered());
        require(pot.money.unlockAt == 0, Unlocking());
        require(pot.money.reserve >= MIN_BOND, ReserveTooLow());
        uint40 last = pot.lastUnlock;
        require(last == 0 || block.timestamp >= last + UNLOCK_DELAY, TooEarly(last + UNLOCK_DELAY));
        pot.registered = true;
        relayIndex[msg.sender] = relays.length;
        relays.push(Relay(msg.sender, uint40(block.timestamp), idKey));
        _log(msg.sender, idKey, true);
    }

    /// @notice The number of registered relays.
    function relayCount() external view returns (uint256) {
        return relays.length;
    }

    /// @notice A page of the registered relays. Their order changes as relays leave: read all pages at one block.
    /// @param from The first one's index.
    /// @param n How many at most.
    /// @return page The relays; fewer, or none, at the end of the list.
    /// @return reserves Their reserves, in wei.
    function relaysAt(uint256 from, uint256 n) external view returns (Relay[] memory page, uint96[] memory reserves) {
        uint256 left = from < relays.length ? relays.length - from : 0;
        if (n > left) n = left;
        page = new Relay[](n);
        reserves = new uint96[](n);
        for (uint256 i = 0; i < n; ++i) {
            page[i] = relays[from + i];
            reserves[i] = pots[page[i].owner].money.reserve;
        }
    }

    /// @dev Calls nothing but the ecrecover precompile, and never reverts on any ticket that is encoded well.
    function _redeem(Claim calldata claim, bytes32 domain) private returns (Code, uint96 payout) {
        (address payer, address payee, uint32 nonce, uint96 face) = (claim.payer, claim.payee, claim.nonce, claim.face);
        if (payer == payee || face == 0 || claim.draw == 0 || claim.draw > MAX_DRAWS) return (Code.BadTerms, 0);
        // A payer can sign itself a second session of the same nonce, and knows its `rand`: it must not be the one who is first.
        if (msg.sender != payee && msg.sender != pots[payee].signer) return (Code.WrongCaller, 0);
        if (block.timestamp > claim.expiry) return (Code.Expired, 0);
        if (claim.expiry > block.timestamp + MAX_TICKET_LIFE) return (Code.TooFar, 0);
        mapping(uint256 => uint256) storage bits = used[payer][payee];
        uint256 word = bits[nonce >> 8];
        if (word >> (nonce & 0xff) & 1 != 0) return (Code.Used, 0);
        if (Ticket.walk(claim.link, claim.draw) != claim.anchor) return (Code.BadChain, 0);
        if (!Ticket.wins(claim.link, claim.rand, claim.winProb)) return (Code.NoWin, 0);
        Pot storage pot = pots[payer];
        if (!Ticket.signed(claim, domain, pot.signer)) return (Code.BadSignature, 0);
        Money storage money = pot.money;
        if (money.bound && pot.onlyPayee != payee) return (Code.WrongPayee, 0);

        payout = face;
        uint96 balance = money.balance;
        bool short = face > balance;
        if (short) {
            if (!claim.mayDefault) return (Code.Short, 0);
            uint256 most = uint256(balance) + money.reserve / 2;
            if (most < face) payout = uint96(most);
        }
        if (payout < claim.minPayout || payout == 0) return (Code.BelowMinimum, 0);
        Money storage to = pots[payee].money;
        uint96 before = to.balance;
        if (payout > type(uint96).max - before) return (Code.Overflow, 0); // only where ether exceeds 2^96 wei

        bits[nonce >> 8] = word | (1 << (nonce & 0xff));
        to.balance = before + payout;
        if (short) {
            _default(payer, pot, payout - balance);
        } else {
            money.balance = balance - face;
        }
        emit Redeemed(payer, payee, nonce, payout, short);
        return (Code.Paid, payout);
    }

    /// @dev Empties the balance, and takes `missing` from the reserve twice: for the payee, and to burn.
    function _default(address owner, Pot storage pot, uint96 missing) private {
        Money storage money = pot.money;
        money.balance = 0;
        money.reserve -= 2 * missing;
        if (money.defaults != type(uint16).max) ++money.defaults;
        burned += missing;
        _changed(owner, pot);
        if (pot.registered && money.reserve < MIN_BOND) _deregister(owner, pot);
    }

    /// @dev Takes a relay off the list: the last one takes its place.
    function _deregister(address owner, Pot storage pot) private {
        uint256 index = relayIndex[owner];
        bytes32 idKey = relays[index].idKey;
        Relay memory last = relays[relays.length - 1];
        relays[index] = last;
        relayIndex[last.owner] = index;
        relays.pop();
        delete relayIndex[owner];
        pot.registered = false;
        _log(owner, idKey, false);
    }

    function _log(address owner, bytes32 idKey, bool registered) private {
        uint64 seq = ++registrySeq;
        registryRoot = keccak256(abi.encode(registryRoot, seq, owner, idKey, registered));
        emit RelayChanged(owner, seq, idKey, registered);
    }

    function _changed(address owner, Pot storage pot) private {
        Money memory money = pot.money;
        emit AccountChanged(owner, money.balance, money.reserve, money.unlockAt);
    }

    function _sum(uint96 a, uint256 b) private pure returns (uint96) {
        require(b <= type(uint96).max - a, AmountTooLarge());
        return a + uint96(b);
    }

    function _send(address payable to, uint96 amount) private {
        require(to != address(0), Zero());
        (bool ok,) = to.call{value: amount}(""); // nothing is read or written after it
        require(ok, SendFailed());
    }
}
