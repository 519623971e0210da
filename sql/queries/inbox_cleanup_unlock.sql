UPDATE pgsagaz.inbox_state SET cleaning = '-infinity'
