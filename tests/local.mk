# Which tests exist. `make check` needs nothing but a compiler and cmocka; ./check runs all.
AM_TESTS_ENVIRONMENT = export top_srcdir='$(top_srcdir)' top_builddir='$(abs_top_builddir)';

dist_check_SCRIPTS = tests/layers.sh
TESTS += tests/layers.sh

if HAVE_CMOCKA
UNIT_TESTS = tests/test_base tests/test_frame tests/test_json tests/test_wire tests/test_policy
check_PROGRAMS += $(UNIT_TESTS)
TESTS += $(UNIT_TESTS)
endif
tests_test_base_SOURCES = tests/test_base.c
tests_test_base_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
tests_test_base_LDADD = libbase.a $(CMOCKA_LIBS)
tests_test_frame_SOURCES = tests/test_frame.c
tests_test_frame_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
tests_test_frame_LDADD = libwall.a libbase.a $(CMOCKA_LIBS)
tests_test_json_SOURCES = tests/test_json.c
tests_test_json_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
tests_test_json_LDADD = libkernel.a libbase.a $(CMOCKA_LIBS)
tests_test_wire_SOURCES = tests/test_wire.c
tests_test_wire_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS) $(libkernel_a_CFLAGS)
tests_test_wire_LDADD = $(KERNEL_LIBS) $(CMOCKA_LIBS)
tests_test_policy_SOURCES = tests/test_policy.c sandbox/policy.c
tests_test_policy_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
tests_test_policy_LDADD = libwall.a libbase.a $(CMOCKA_LIBS)

# --- fuzzers: one for each parser of foreign bytes. ./configure --enable-fuzzing CC=clang
FUZZ_SECONDS = 60
FUZZ_FLAGS = -fsanitize=fuzzer
FUZZERS = tests/fuzz_frame tests/fuzz_json tests/fuzz_wire tests/fuzz_conn tests/fuzz_timeline
if FUZZING
noinst_PROGRAMS += $(FUZZERS)
endif
tests_fuzz_frame_SOURCES = tests/fuzz_frame.c
tests_fuzz_frame_CFLAGS = $(libkernel_a_CFLAGS) $(FUZZ_FLAGS)
tests_fuzz_frame_LDFLAGS = $(AM_LDFLAGS) $(FUZZ_FLAGS)
tests_fuzz_frame_LDADD = libwall.a libbase.a
tests_fuzz_json_SOURCES = tests/fuzz_json.c
tests_fuzz_json_CFLAGS = $(libkernel_a_CFLAGS) $(FUZZ_FLAGS)
tests_fuzz_json_LDFLAGS = $(AM_LDFLAGS) $(FUZZ_FLAGS)
tests_fuzz_json_LDADD = libkernel.a libbase.a
tests_fuzz_wire_SOURCES = tests/fuzz_wire.c
tests_fuzz_wire_CFLAGS = $(libkernel_a_CFLAGS) $(FUZZ_FLAGS)
tests_fuzz_wire_LDFLAGS = $(AM_LDFLAGS) $(FUZZ_FLAGS)
tests_fuzz_wire_LDADD = $(KERNEL_LIBS)
tests_fuzz_conn_SOURCES = tests/fuzz_conn.c
tests_fuzz_conn_CFLAGS = $(libkernel_a_CFLAGS) $(FUZZ_FLAGS)
tests_fuzz_conn_LDFLAGS = $(AM_LDFLAGS) $(FUZZ_FLAGS)
tests_fuzz_conn_LDADD = $(KERNEL_LIBS)
tests_fuzz_timeline_SOURCES = tests/fuzz_timeline.c
tests_fuzz_timeline_CFLAGS = $(libkernel_a_CFLAGS) $(FUZZ_FLAGS)
tests_fuzz_timeline_LDFLAGS = $(AM_LDFLAGS) $(FUZZ_FLAGS)
tests_fuzz_timeline_LDADD = $(KERNEL_LIBS)

fuzz: $(FUZZERS)
	@for f in $(FUZZERS); do \
	  echo "== $$f, $(FUZZ_SECONDS) s"; \
	  ./$$f -max_total_time=$(FUZZ_SECONDS) -print_final_stats=1 -timeout=10 -rss_limit_mb=4096 \
	    >$$f.log 2>&1 || { tail -30 $$f.log; exit 1; }; \
	  grep number_of_executed_units $$f.log; \
	done
.PHONY: fuzz
CLEANFILES += tests/*.log

EXTRA_DIST += tests/conftest.py tests/requirements.txt
