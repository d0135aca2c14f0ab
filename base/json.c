/* SPDX-License-Identifier: BSD-3-Clause
 *
 * json.c: three readers over the same bytes: one checks all of them, one walks what was
 * checked, one takes strings apart; and a writer of strings.
 *
 * Speed comes from one idea: most bytes are the inside of strings and mean nothing here, so
 * they are looked at 16 at a time, and only one that means something is handled alone.
 */
#include "base/json.h"

#include <errno.h>
#include <string.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

/*** bytes that mean something ***/

enum stop {
    STOP_TEXT = 1,    /* in a string: quote, backslash, control character, byte of UTF-8 */
    STOP_QUOTE = 2,   /* in a string that was checked: quote, backslash */
    STOP_BRACKET = 4, /* in an array or object that was checked: quote, brackets */
};

static const uint8_t stops[256] = {
    [0x00 ... 0x1f] = STOP_TEXT,
    ['"'] = STOP_TEXT | STOP_QUOTE | STOP_BRACKET,
    ['\\'] = STOP_TEXT | STOP_QUOTE,
    ['['] = STOP_BRACKET,
    [']'] = STOP_BRACKET,
    ['{'] = STOP_BRACKET,
    ['}'] = STOP_BRACKET,
    [0x80 ... 0xff] = STOP_TEXT,
};

#ifdef __SSE2__
/* The bits of the bytes in a block of 16 where `stop` says to stop. */
static inline __attribute__((always_inline)) unsigned
block_stops(__m128i block, enum stop stop)
{
    __m128i hit = _mm_cmpeq_epi8(block, _mm_set1_epi8('"'));

    if (stop == STOP_BRACKET) {
        /* With bit 5 set, [ and { are one byte, ] and } another, and no other is either. */
        __m128i folded = _mm_or_si128(block, _mm_set1_epi8(0x20));
        hit = _mm_or_si128(hit, _mm_cmpeq_epi8(folded, _mm_set1_epi8('{')));
        hit = _mm_or_si128(hit, _mm_cmpeq_epi8(folded, _mm_set1_epi8('}')));
    } else {
        hit = _mm_or_si128(hit, _mm_cmpeq_epi8(block, _mm_set1_epi8('\\')));
    }
    if (stop == STOP_TEXT) /* signed: a byte above 0x7f is below 0x20, too */
        hit = _mm_or_si128(hit, _mm_cmplt_epi8(block, _mm_set1_epi8(0x20)));
    return (unsigned)_mm_movemask_epi8(hit);
}
#endif

/* The first byte from `at` on where `stop` says to stop, or `end`. */
static inline __attribute__((always_inline)) const uint8_t *
run(const uint8_t *at, const uint8_t *end, enum stop stop)
{
#ifdef __SSE2__
    for (; end - at >= 16; at += 16) {
        unsigned hit = block_stops(_mm_loadu_si128((const __m128i *)at), stop);
        if (hit)
            return at + __builtin_ctz(hit);
    }
#else
    while (end - at >= 4 &&
           !((stops[at[0]] | stops[at[1]] | stops[at[2]] | stops[at[3]]) & stop))
        at += 4;
#endif
    while (at < end && !(stops[*at] & stop))
        at++;
    return at;
}

/* How many bytes at `at` begin a well-formed sequence of more than one byte (Unicode, table
 * 3-7), and in *want how many the whole of it has, 0 if none begins with this byte. The
 * sequence is valid if both are equal. `at` < `end`. */
static inline size_t
utf8_begin(const uint8_t *at, const uint8_t *end, size_t *want)
{
    size_t room = (size_t)(end - at), n = 1;
    uint8_t lead = at[0], low = 0x80, high = 0xbf;

    *want = lead < 0xc2 ? 0 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : lead < 0xf5 ? 4 : 0;
    if (*want == 0)
        return 0;
    if (lead == 0xe0) /* below: two bytes are enough */
        low = 0xa0;
    else if (lead == 0xed) /* above: surrogates */
        high = 0x9f;
    else if (lead == 0xf0) /* below: three bytes are enough */
        low = 0x90;
    else if (lead == 0xf4) /* above: U+10FFFF is the last */
        high = 0x8f;
    if (room < 2 || at[1] < low || at[1] > high)
        return 1;
    do
        n++;
    while (n < *want && n < room && (at[n] & 0xc0) == 0x80);
    return n;
}

/* Bytes of the valid sequence at `at`, 0 if it is not valid. */
static inline size_t
utf8_length(const uint8_t *at, const uint8_t *end)
{
    size_t want, n = utf8_begin(at, end, &want);

    return n == want ? n : 0;
}

static size_t
utf8_put(uint8_t *into, uint32_t code)
{
    if (code < 0x80) {
        into[0] = (uint8_t)code;
        return 1;
    }
    if (code < 0x800) {
        into[0] = (uint8_t)(0xc0 | code >> 6);
        into[1] = (uint8_t)(0x80 | (code & 0x3f));
        return 2;
    }
    if (code < 0x10000) {
        into[0] = (uint8_t)(0xe0 | code >> 12);
        into[1] = (uint8_t)(0x80 | (code >> 6 & 0x3f));
        into[2] = (uint8_t)(0x80 | (code & 0x3f));
        return 3;
    }
    into[0] = (uint8_t)(0xf0 | code >> 18);
    into[1] = (uint8_t)(0x80 | (code >> 12 & 0x3f));
    into[2] = (uint8_t)(0x80 | (code >> 6 & 0x3f));
    into[3] = (uint8_t)(0x80 | (code & 0x3f));
    return 4;
}

size_t
json_utf8_tail(struct bytes text)
{
    size_t want;

    for (size_t n = 1; n <= 3 && n <= text.len; n++) {
        const uint8_t *at = text.data + text.len - n;
        if (utf8_begin(at, at + n, &want) == n && n < want)
            return n;
    }
    return 0;
}

int
json_is_utf8(struct bytes text)
{
    for (size_t i = 0, n; i < text.len; i += n) {
        const uint8_t *at = text.data + i;
        n = *at < 0x80 ? 1 : utf8_length(at, text.data + text.len);
        if (n == 0)
            return 0;
    }
    return 1;
}

/*** a place in the bytes ***/

struct scan {
    const uint8_t *start, *at, *end;
    struct err *err;               /* json_check() only, as all below */
    unsigned depth;                /* arrays and objects that are open */
    int fresh;                     /* the innermost was opened by the last byte */
    uint64_t kind[JSON_DEPTH / 64]; /* a bit for each of them: 1 is an object */
};

static const uint8_t *
scan_start(struct bytes text)
{
    return text.len ? text.data : (const uint8_t *)""; /* NULL takes no arithmetic */
}

/* The next byte that is no white space, which stays; -1 at the end. */
static inline int
peek(struct scan *s)
{
    while (s->at < s->end) {
        uint8_t c = *s->at;
        if (c > ' ' || (c != ' ' && c != '\n' && c != '\r' && c != '\t'))
            return c;
        s->at++;
    }
    return -1;
}

static inline int
take(struct scan *s, int c)
{
    if (peek(s) != c)
        return -1;
    s->at++;
    return 0;
}

static int
is_digit(uint8_t c)
{
    return c >= '0' && c <= '9';
}

/* Moves behind the literal at s->at. */
static enum json_type
take_literal(struct scan *s)
{
    static const struct {
        struct bytes text;
        enum json_type type;
    } literals[] = {
        {{(const uint8_t *)"true", 4}, J_TRUE},
        {{(const uint8_t *)"false", 5}, J_FALSE},
        {{(const uint8_t *)"null", 4}, J_NULL},
    };
    size_t room = (size_t)(s->end - s->at);

    for (size_t i = 0; i < countof(literals); i++) {
        struct bytes text = literals[i].text;
        if (room >= text.len && memcmp(s->at, text.data, text.len) == 0) {
            s->at += text.len;
            return literals[i].type;
        }
    }
    return J_NONE;
}

/*** checking ***/

static int
refuse(struct scan *s, const uint8_t *at, const char *why)
{
    return err_set(s->err, EBADMSG, "byte %zu: %s", (size_t)(at - s->start), why);
}

static int
hex_digit(uint8_t c)
{
    if (is_digit(c))
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* The four digits of \uXXXX, or -1. */
static int32_t
hex_four(const uint8_t *at, const uint8_t *end)
{
    int32_t code = 0;

    if (end - at < 4)
        return -1;
    for (int i = 0; i < 4; i++) {
        int digit = hex_digit(at[i]);
        if (digit < 0)
            return -1;
        code = code << 4 | digit;
    }
    return code;
}

static int
check_escape(struct scan *s)
{
    if (s->end - s->at < 2)
        return refuse(s, s->at, "an escape that is cut off");
    switch (s->at[1]) {
    case 'u':
        if (hex_four(s->at + 2, s->end) < 0)
            return refuse(s, s->at, "\\u without four hexadecimal digits");
        s->at += 6;
        return 0;
    case '"': case '\\': case '/': case 'b': case 'f': case 'n': case 'r': case 't':
        s->at += 2;
        return 0;
    default:
        return refuse(s, s->at, "an escape that does not exist");
    }
}

static int
check_string(struct scan *s)
{
    const uint8_t *open = s->at++;

    for (;;) {
        s->at = run(s->at, s->end, STOP_TEXT);
        if (s->at == s->end)
            return refuse(s, open, "a string is not closed");
        if (*s->at == '"') {
            s->at++;
            return J_STRING;
        }
        if (*s->at == '\\') {
            if (check_escape(s) < 0)
                return -1;
        } else if (*s->at < 0x20) {
            return refuse(s, s->at, "a control character in a string");
        }
        /* Text of other alphabets stays here and does not start a block for each letter. */
        while (s->at < s->end && *s->at >= 0x80) {
            size_t n = utf8_length(s->at, s->end);
            if (n == 0)
                return refuse(s, s->at, "text that is not UTF-8");
            s->at += n;
        }
    }
}

/* Moves over one digit or more. */
static int
check_digits(struct scan *s, const char *why)
{
    const uint8_t *first = s->at;

    while (s->at < s->end && is_digit(*s->at))
        s->at++;
    return s->at > first ? 0 : refuse(s, s->at, why);
}

static int
check_number(struct scan *s)
{
    const uint8_t *first;

    if (*s->at == '-')
        s->at++;
    first = s->at;
    if (check_digits(s, "a number without digits") < 0)
        return -1;
    if (*first == '0' && s->at - first > 1)
        return refuse(s, first, "a number with a leading zero");
    if (s->at < s->end && *s->at == '.') {
        s->at++;
        if (check_digits(s, "a fraction without digits") < 0)
            return -1;
    }
    if (s->at < s->end && (*s->at | 0x20) == 'e') {
        s->at++;
        if (s->at < s->end && (*s->at == '+' || *s->at == '-'))
            s->at++;
        if (check_digits(s, "an exponent without digits") < 0)
            return -1;
    }
    return J_NUMBER;
}

static int
in_object(const struct scan *s)
{
    return (int)(s->kind[(s->depth - 1) / 64] >> (s->depth - 1) % 64 & 1);
}

static int
check_open(struct scan *s, enum json_type type)
{
    uint64_t bit = 1ull << s->depth % 64, *kind = &s->kind[s->depth / 64];

    if (s->depth == JSON_DEPTH)
        return refuse(s, s->at, "arrays and objects are too deep inside each other");
    *kind = type == J_OBJECT ? *kind | bit : *kind & ~bit;
    s->depth++;
    s->fresh = 1;
    s->at++;
    return type;
}

/* A value, or the opening of one. */
static int
check_value(struct scan *s)
{
    enum json_type type;
    int c = peek(s);

    switch (c) {
    case '"':
        return check_string(s);
    case '{':
        return check_open(s, J_OBJECT);
    case '[':
        return check_open(s, J_ARRAY);
    case '-':
        return check_number(s);
    default:
        if (c >= '0' && c <= '9')
            return check_number(s);
        type = take_literal(s);
        return type != J_NONE ? (int)type : refuse(s, s->at, "no value");
    }
}

static int
check_name(struct scan *s)
{
    if (peek(s) != '"')
        return refuse(s, s->at, "no name in quotes");
    if (check_string(s) < 0)
        return -1;
    return take(s, ':') == 0 ? 0 : refuse(s, s->at, "no ':' after a name");
}

/* One step inside the innermost array or object: a member, or its end. */
static int
check_inside(struct scan *s)
{
    int object = in_object(s), fresh = s->fresh;

    s->fresh = 0;
    if (take(s, object ? '}' : ']') == 0) {
        s->depth--;
        return 0;
    }
    if (!fresh && take(s, ',') < 0)
        return refuse(s, s->at, object ? "no ',' or '}' after a member"
                                       : "no ',' or ']' after an element");
    if (object && check_name(s) < 0)
        return -1;
    return check_value(s);
}

int
json_check(struct bytes text, struct err *err)
{
    const uint8_t *start = scan_start(text);
    struct scan s = {.start = start, .at = start, .end = start + text.len, .err = err};
    int type;

    if (text.len >= 3 && memcmp(start, "\xef\xbb\xbf", 3) == 0)
        return refuse(&s, start, "a byte order mark");
    type = check_value(&s);
    if (type < 0)
        return -1;
    while (s.depth)
        if (check_inside(&s) < 0)
            return -1;
    if (peek(&s) >= 0)
        return refuse(&s, s.at, "something after the value");
    return type;
}

int
json_check_object(struct bytes text, struct err *err)
{
    int type = json_check(text, err);

    if (type < 0)
        return -1;
    return type == J_OBJECT ? 0 : err_set(err, EBADMSG, "not an object");
}

/*** walking what was checked ***/

/* From here on the bytes are known to be JSON, and only what separates them is looked at.
 * If they are not, what comes out is nonsense, but lies inside of what came in. */

static int
skip_string(struct scan *s)
{
    s->at++;
    for (;;) {
        s->at = run(s->at, s->end, STOP_QUOTE);
        if (s->at == s->end)
            return -1;
        if (*s->at++ == '"')
            return 0;
        if (s->at == s->end)
            return -1;
        s->at++; /* whatever was escaped */
    }
}

/* Brackets of both kinds are counted together: in checked bytes they match. */
static int
skip_nested(struct scan *s)
{
    size_t depth = 0;

    do {
        s->at = run(s->at, s->end, STOP_BRACKET);
        if (s->at == s->end)
            return -1;
        if (*s->at == '"') {
            if (skip_string(s) < 0)
                return -1;
            continue;
        }
        if ((*s->at++ | 0x20) == '{')
            depth++;
        else
            depth--;
    } while (depth);
    return 0;
}

/* Bytes of the number at s->at. */
static ptrdiff_t
skip_number(struct scan *s)
{
    const uint8_t *first = s->at;

    while (s->at < s->end && (is_digit(*s->at) || *s->at == '-' || *s->at == '+' ||
                              *s->at == '.' || (*s->at | 0x20) == 'e'))
        s->at++;
    return s->at - first;
}

static enum json_type
skip_value(struct scan *s, struct bytes *ret)
{
    enum json_type type = J_NONE;
    int c = peek(s);
    const uint8_t *first = s->at;

    if (c == '"' && skip_string(s) == 0)
        type = J_STRING;
    else if ((c == '{' || c == '[') && skip_nested(s) == 0)
        type = c == '{' ? J_OBJECT : J_ARRAY;
    else if (skip_number(s) > 0)
        type = J_NUMBER;
    else
        type = take_literal(s);
    if (type != J_NONE)
        *ret = (struct bytes){first, (size_t)(s->at - first)};
    return type;
}

/* Goes where the last call ended, and over what stands before the next item. */
static int
walk_on(struct scan *s, struct bytes text, size_t at, int open)
{
    s->start = scan_start(text);
    s->end = s->start + text.len;
    s->at = s->start + (at < text.len ? at : text.len);
    return take(s, at == 0 ? open : ',');
}

enum json_type
json_next(struct bytes object, size_t *at, struct bytes *ret_name, struct bytes *ret_value)
{
    struct bytes name, value;
    enum json_type type;
    struct scan s;

    if (walk_on(&s, object, *at, '{') < 0 || peek(&s) != '"')
        return J_NONE;
    name.data = s.at;
    if (skip_string(&s) < 0)
        return J_NONE;
    name.len = (size_t)(s.at - name.data);
    if (take(&s, ':') < 0)
        return J_NONE;
    type = skip_value(&s, &value);
    if (type == J_NONE)
        return J_NONE;
    *ret_name = name;
    *ret_value = value;
    *at = (size_t)(s.at - s.start);
    return type;
}

enum json_type
json_element(struct bytes array, size_t *at, struct bytes *ret_value)
{
    enum json_type type;
    struct scan s;

    if (walk_on(&s, array, *at, '[') < 0)
        return J_NONE;
    type = skip_value(&s, ret_value);
    if (type != J_NONE)
        *at = (size_t)(s.at - s.start);
    return type;
}

enum json_type
json_get(struct bytes object, const char *name, struct bytes *ret)
{
    enum json_type type, found = J_NONE;
    struct bytes key, value;
    size_t at = 0;

    while ((type = json_next(object, &at, &key, &value)) != J_NONE) {
        if (json_string_is(key, name)) {
            *ret = value;
            found = type;
        }
    }
    return found;
}

/*** what strings and numbers mean ***/

/* The inside of a string, without its quotes. */
static struct bytes
unquoted(struct bytes string)
{
    if (string.len < 2)
        return (struct bytes){(const uint8_t *)"", 0};
    return (struct bytes){string.data + 1, string.len - 2};
}

/* What the escape at *at means, in UTF-8; moves behind it. A backslash that begins none (in
 * bytes that were not checked) means itself, so that the meaning is never longer than what
 * was written. Returns its bytes. */
static size_t
read_escape(const uint8_t **at, const uint8_t *end, uint8_t into[static 4])
{
    static const char letters[] = "\"\\/bfnrt", meanings[] = "\"\\/\b\f\n\r\t";
    const uint8_t *e = *at;
    const char *letter;
    int32_t code = -1, low;

    if (end - e >= 2 && e[1] == 'u')
        code = hex_four(e + 2, end);
    if (code >= 0) {
        *at = e + 6;
        if ((code & 0xfc00) != 0xd800 || end - e < 12 || e[6] != '\\' || e[7] != 'u')
            return utf8_put(into, (uint32_t)code);
        low = hex_four(e + 8, end);
        if (low < 0 || (low & 0xfc00) != 0xdc00)
            return utf8_put(into, (uint32_t)code);
        *at = e + 12;
        return utf8_put(into, 0x10000 + ((uint32_t)code - 0xd800) * 0x400 +
                                  ((uint32_t)low - 0xdc00));
    }
    letter = end - e >= 2 ? memchr(letters, e[1], sizeof letters - 1) : NULL;
    into[0] = letter ? (uint8_t)meanings[letter - letters] : '\\';
    *at = e + (letter ? 2 : 1);
    return 1;
}

int
json_unescape(struct bytes string, struct buf *ret)
{
    struct bytes text = unquoted(string);
    const uint8_t *at = text.data, *end = at + text.len;

    if (buf_reserve(ret, text.len + 4) < 0)
        return -1;
    while (at < end) {
        const uint8_t *escape = memchr(at, '\\', (size_t)(end - at));
        size_t len = (size_t)((escape ? escape : end) - at);
        memcpy(ret->data + ret->len, at, len);
        ret->len += len;
        at += len;
        if (escape)
            ret->len += read_escape(&at, end, ret->data + ret->len);
    }
    return 0;
}

int
json_string_is(struct bytes string, const char *text)
{
    struct bytes inside = unquoted(string);
    const uint8_t *at = inside.data, *end = at + inside.len;
    size_t left = strlen(text);

    if (string.len < 2 || string.data[0] != '"' || left > inside.len)
        return 0;
    while (at < end) {
        uint8_t one[4] = {*at};
        size_t len = 1;
        if (*at == '\\')
            len = read_escape(&at, end, one);
        else
            at++;
        if (len > left || memcmp(one, text, len) != 0)
            return 0;
        text += len;
        left -= len;
    }
    return left == 0;
}

int
json_int64(struct bytes number, int64_t *ret)
{
    size_t at = number.len && number.data[0] == '-';
    int64_t value = 0;

    if (at == number.len)
        return -1;
    for (int negative = (int)at; at < number.len; at++) {
        int digit = number.data[at] - '0';
        /* A fraction or an exponent ends here too, even if it comes to an integer: a double
         * was meant. Negative numbers are counted downwards, as they reach one further. */
        if (digit < 0 || digit > 9 || __builtin_mul_overflow(value, 10, &value) ||
            __builtin_add_overflow(value, negative ? -digit : digit, &value))
            return -1;
    }
    *ret = value;
    return 0;
}

/*** writing strings ***/

#define QUOTE_PIECE 4096 /* bytes for which room is made at once */
#define QUOTE_WORST 6    /* times as long, at most: \u0000 */
#define QUOTE_SLACK 32   /* a block written whole, a sequence beyond the piece, quotes */

static uint8_t *
put_control(uint8_t *to, uint8_t c)
{
    static const char digits[] = "0123456789abcdef";
    static const char letters[0x20] = {
        ['\b'] = 'b', ['\t'] = 't', ['\n'] = 'n', ['\f'] = 'f', ['\r'] = 'r'};

    *to++ = '\\';
    if (letters[c]) {
        *to++ = (uint8_t)letters[c];
        return to;
    }
    memcpy(to, "u00", 3);
    to[3] = (uint8_t)digits[c >> 4];
    to[4] = (uint8_t)digits[c & 15];
    return to + 5;
}

/* Writes the byte or sequence at *at, which is not plain, and moves behind it. */
static uint8_t *
put_special(uint8_t *to, const uint8_t **at, const uint8_t *end)
{
    size_t want, n;
    uint8_t c = **at;

    if (c < 0x80) {
        ++*at;
        if (c < 0x20)
            return put_control(to, c);
        *to++ = '\\';
        *to++ = c;
        return to;
    }
    n = utf8_begin(*at, end, &want);
    if (n == want && n > 0) {
        memcpy(to, *at, n);
        *at += n;
        return to + n;
    }
    memcpy(to, "\xef\xbf\xbd", 3);
    *at += n ? n : 1;
    return to + 3;
}

/* Writes what begins before `edge`; the last sequence may reach beyond it, up to `end`. */
static uint8_t *
put_piece(uint8_t *to, const uint8_t **ret_at, const uint8_t *edge, const uint8_t *end)
{
    const uint8_t *at = *ret_at;

    while (at < edge) {
#ifdef __SSE2__
        /* A block is copied before it is known how much of it is plain: hence the slack. */
        while (edge - at >= 16) {
            __m128i block = _mm_loadu_si128((const __m128i *)at);
            unsigned hit = block_stops(block, STOP_TEXT), n = hit ? __builtin_ctz(hit) : 16;
            _mm_storeu_si128((__m128i *)to, block);
            to += n;
            at += n;
            if (hit)
                break;
        }
#endif
        while (at < edge && !(stops[*at] & STOP_TEXT))
            *to++ = *at++;
        while (at < edge && (stops[*at] & STOP_TEXT))
            to = put_special(to, &at, end);
    }
    *ret_at = at;
    return to;
}

int
json_quote(struct bytes text, struct buf *ret)
{
    const uint8_t *at = scan_start(text), *end = at + text.len;
    size_t before = ret->len;

    /* Text that is mostly plain is never moved again. */
    if (buf_reserve(ret, text.len + text.len / 16 + QUOTE_SLACK) < 0)
        return -1;
    ret->data[ret->len++] = '"';
    while (at < end) {
        size_t piece = (size_t)(end - at) < QUOTE_PIECE ? (size_t)(end - at) : QUOTE_PIECE;
        uint8_t *to;
        if (buf_reserve(ret, piece * QUOTE_WORST + QUOTE_SLACK) < 0) {
            ret->len = before;
            return -1;
        }
        to = put_piece(ret->data + ret->len, &at, at + piece, end);
        ret->len = (size_t)(to - ret->data);
    }
    ret->data[ret->len++] = '"';
    return 0;
}

/* How many bytes of one valid UTF-8 sequence begin here (RFC 3629); 0 if none does. */
static size_t
valid_sequence(const uint8_t *p, size_t len)
{
    size_t n = *p < 0x80 ? 1 : *p >= 0xc2 && *p < 0xe0 ? 2 : (*p & 0xf0) == 0xe0 ? 3
             : *p >= 0xf0 && *p < 0xf5 ? 4 : 0;

    if (n == 0 || n > len)
        return 0;
    for (size_t i = 1; i < n; i++)
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    if ((*p == 0xe0 && p[1] < 0xa0) || (*p == 0xed && p[1] > 0x9f) || (*p == 0xf0 && p[1] < 0x90) ||
        (*p == 0xf4 && p[1] > 0x8f))
        return 0;
    return n;
}

int
json_quote_path(struct bytes path, struct buf *ret)
{
    size_t from = 0, i = 0, quote;

    if (buf_text(ret, "\"") < 0)
        return -1;
    while (i <= path.len) {
        size_t n = i < path.len ? valid_sequence(path.data + i, path.len - i) : 0;
        if (n) {
            i += n;
            continue;
        }
        if (i > from) { /* the quotes of the part are dropped */
            quote = ret->len;
            if (json_quote((struct bytes){path.data + from, i - from}, ret) < 0)
                return -1;
            memmove(ret->data + quote, ret->data + quote + 1, ret->len - quote - 2);
            ret->len -= 2;
        }
        if (i < path.len && buf_printf(ret, "\\udc%02x", path.data[i]) < 0)
            return -1;
        from = ++i;
    }
    return buf_text(ret, "\"");
}

void
json_surrogates_to_bytes(struct buf *text)
{
    size_t to = 0;

    for (size_t i = 0; i < text->len; i++) {
        const uint8_t *p = text->data + i;
        if (i + 2 < text->len && p[0] == 0xed && (p[1] == 0xb2 || p[1] == 0xb3) && p[2] >= 0x80) {
            text->data[to++] = (uint8_t)((p[1] & 3) << 6 | (p[2] & 0x3f));
            i += 2;
        } else {
            text->data[to++] = *p;
        }
    }
    text->len = to;
    if (text->data)
        text->data[to] = 0; /* where buf_string() put one further on */
}
