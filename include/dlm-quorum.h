#pragma once
/*
 * Who is in the cluster, and has it a quorum? corosync says so, by itself, at
 * each change (libquorum): it is what dlm_controld asks, too. dlm_controld's
 * own answers would end with it, and the kernel's list of nodes in configfs
 * knows no quorum.
 *
 * A thread listens, since corosync may be stopped or starved; where it cannot
 * be reached the thread tries again each second. The news come as mail, so
 * the main loop always has an answer.
 */
#include "dlm-mail.h"

typedef struct DlmQuorum DlmQuorum;

/* Begin to listen. No thread, no news: then nothing is ever known. */
DlmQuorum *dlm_quorum_new(DlmMailbox *mailbox);
void dlm_quorum_free(DlmQuorum *quorum);        /* NULL is fine */

/* The members, of uint32_t, ascending, borrowed; NULL: not known now. */
const GArray *dlm_quorum_get(const DlmQuorum *quorum, gboolean *ret_is_quorate);
