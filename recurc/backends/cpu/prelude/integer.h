//@ spread:
static inline @T@ rc_spread$(@T@ x) { return x; }

//@ select:
static inline @T@ rc_select$(int c, @T@ a, @T@ b) { return c ? a : b; }

//@ not:
static inline @T@ rc_not$(@T@ x) { return !x; }

//@ add:
// sums, differences and products wrap around, as everywhere outside of C
static inline @T@ rc_add$(@T@ a, @T@ b) { return (@T@)((@U@)a + (@U@)b); }

//@ sub:
static inline @T@ rc_sub$(@T@ a, @T@ b) { return (@T@)((@U@)a - (@U@)b); }

//@ mul:
static inline @T@ rc_mul$(@T@ a, @T@ b) { return (@T@)((@U@)a * (@U@)b); }

//@ neg:
static inline @T@ rc_neg$(@T@ x) { return (@T@)(0 - (@U@)x); }

//@ max:
static inline @T@ rc_max$(@T@ a, @T@ b) { return a >= b ? a : b; }

//@ min:
static inline @T@ rc_min$(@T@ a, @T@ b) { return a <= b ? a : b; }

//@ abs:
static inline @T@ rc_abs$(@T@ x) { return x < 0 ? (@T@)(0 - (@U@)x) : x; }

//@ sign:
static inline @T@ rc_sign$(@T@ x) { return (x > 0) - (x < 0); }

//@ floor:
static inline @T@ rc_floor$(@T@ x) { return x; }

//@ round:
static inline @T@ rc_round$(@T@ x) { return x; }

//@ floordiv:
// rounds down; division by zero gives 0, as in NumPy. A processor traps where the least integer is divided by -1: that
// one wraps round, as a negation does.
static inline @T@ rc_floordiv$(@T@ x, @T@ y) {
    if (y == 0) return 0;
    if (y == -1) return (@T@)(0 - (@U@)x);
    return x / y - (x % y != 0 && (x < 0) != (y < 0));
}

//@ mod:
static inline @T@ rc_mod$(@T@ x, @T@ y) {
    const @T@ rest = y == 0 || y == -1 ? 0 : x % y;
    return rest != 0 && (rest < 0) != (y < 0) ? rest + y : rest;
}
